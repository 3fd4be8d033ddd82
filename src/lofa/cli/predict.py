"""lofa predict: a prompt or pose sequence -> an adapter file."""

import time

from lofa import workflows
from lofa.adapters import Adapter
from lofa.cli.commands import PredictConfig
from lofa.cli.objects import check_export, load_predictor

__all__ = ["predict"]


def predict(config: PredictConfig) -> Adapter:
    """Predicts one adapter and writes it."""
    dtype = check_export(config)
    predictor = load_predictor(config)
    begun = time.perf_counter()
    adapter = predictor.predict(prompt=config.prompt, pose=config.pose, image=config.image)
    seconds = time.perf_counter() - begun
    written = workflows.export_adapter(adapter, config.out, config.format, dtype, config.rank, config.overwrite)
    print(f"{config.out}: {written}, predicted in {seconds:.2f} s")
    return adapter
