"""lofa predict: a prompt or pose sequence -> an adapter file."""

import time
from typing import Any

from lofa.adapters import Adapter
from lofa.cli.export import check_export, export_adapter
from lofa.cli.objects import load_predictor

__all__ = ["predict"]


def predict(config: Any) -> Adapter:
    """Predicts one adapter and writes it."""
    check_export(config)
    predictor = load_predictor(config)
    begun = time.perf_counter()
    adapter = predictor.predict(prompt=config.prompt, pose=config.pose, image=config.image)
    seconds = time.perf_counter() - begun
    print(f"{config.out}: {export_adapter(adapter, config)}, predicted in {seconds:.2f} s")
    return adapter
