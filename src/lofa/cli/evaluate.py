"""eval.py: base, per-sample LoRA, LoFA and variants on held-out prompts -> metrics.json, report.html, a table."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table
from transformers.utils.logging import disable_progress_bar

from lofa.backbones import Backbone
from lofa.cli.command import Command
from lofa.cli.objects import check_conditions, open_backbone, pick_device
from lofa.cli.options import build, option, text
from lofa.cli.problems import nearest
from lofa.cli.runs import find_run, find_set, new_run, read_run_config, start_run
from lofa.cli.schema import WayConfig
from lofa.data import read_samples
from lofa.errors import ConfigError, DataError
from lofa.evaluation import (
    METRICS,
    Case,
    Curves,
    Evaluation,
    Judges,
    LayerMaps,
    Method,
    Protocol,
    base_method,
    evaluate,
    lofa_method,
    lora_method,
    plan_cases,
    read_curves,
    response_maps,
    shuffled,
    write_report,
)
from lofa.files import write_json
from lofa.metrics import load_clip, load_video_features
from lofa.predict import Predictor
from lofa.stores import Place
from lofa.zoo import LoraOptions

__all__ = ["COMMAND", "EvalConfig", "compare_methods", "print_table"]

_SHUFFLED = "_shuffled"


@dataclass
class EvalConfig(WayConfig):
    """Keys of eval.py."""

    methods: list[str] = option(
        ["base", "lora", "lofa"],
        "base, lora, lofa, a name in `predictors`; with _shuffled behind: its adapters, mixed up",
    )
    predictor: str | None = text(
        None, "run of train.py stage=2; none: the newest finished one of this data, task and backbone"
    )
    predictors: dict[str, str] = text({}, "further predictors: +predictors.<name>=<run>")


def evaluation(config: Any) -> Evaluation:
    """Compares the methods of the configuration in a run directory of its own."""
    backbone = open_backbone(config.backbone, pick_device(config.device))
    with new_run(config, "eval") as run:
        return compare_methods(config, backbone, run)


def compare_methods(config: Any, backbone: Backbone, run: Path) -> Evaluation:
    """Scores the methods and writes metrics.json and report.html into `run`.

    Raises:
        LofaError: an unknown method, no predictor, no held-out clips, or anything that does not belong together.
    """
    set_dir = find_set(config)
    samples = read_samples(set_dir)
    protocol: Protocol = build(Protocol, config.evaluation, seed=config.seed)
    cases = plan_cases(samples, protocol)
    predictors = _load_predictors(config, set_dir, backbone)
    disable_progress_bar()  # of loading weights, a blink each
    judges = Judges(
        load_clip(config.metrics.clip, str(backbone.device)),
        load_video_features(config.metrics.video, str(backbone.device)),
    )
    methods = _build_methods(config, set_dir, backbone, cases, predictors)
    result = evaluate(set_dir, backbone, cases, methods, judges, protocol)
    start_run(run, config)
    write_json(run / "metrics.json", result.metrics)
    write_report(
        run / "report.html",
        result,
        maps=_maps(set_dir, predictors, cases, methods),
        curves=_curves(predictors),
        facts={"data": str(set_dir), "backbone": backbone.name, "seed": str(config.seed), "protocol": str(protocol)},
        fps=backbone.sampling.fps,
    )
    print_table(result.metrics)
    print(f"{run / 'metrics.json'}, {run / 'report.html'}")
    return result


def _load_predictors(config: Any, set_dir: Place, backbone: Backbone) -> dict[str, Predictor]:
    """The predictors that the methods name."""
    wanted = dict.fromkeys(name.removesuffix(_SHUFFLED) for name in config.methods)
    runs: dict[str, str | None] = {"lofa": config.predictor, **config.predictors}
    unknown = next((name for name in wanted if name not in ("base", "lora", *runs)), None)
    if unknown is not None:
        raise ConfigError(f"methods: no method {unknown!r}; {nearest(unknown, ['base', 'lora', *runs])}")
    loaded = {}
    for name in wanted:
        if name in runs:
            run = runs[name] or _newest_predictor(config, set_dir, backbone)
            loaded[name] = Predictor.load(run, str(backbone.device), backbone)
            check_conditions(str(run), loaded[name].conditions, config.task)
    return loaded


def _newest_predictor(config: Any, set_dir: Place, backbone: Backbone) -> str:
    wanted = {
        "stage": 2,
        "data": str(set_dir.resolve()),
        "task": config.task.name,
    }
    try:
        run = find_run(config.paths.runs, wanted, backbone)
    except DataError as error:
        raise DataError(
            f"method lofa needs a predictor: {error}. Run train.py stage=2, or give predictor=<run>"
        ) from None
    print(f"predictor: {run} (the newest finished one; choose another with predictor=<run>)")
    return str(run)


def _build_methods(
    config: Any, set_dir: Place, backbone: Backbone, cases: Sequence[Case], predictors: dict[str, Predictor]
) -> list[Method]:
    made: dict[str, Method] = {}
    for name in dict.fromkeys(name.removesuffix(_SHUFFLED) for name in config.methods):
        with Console().status(f"adapters of {name}"):
            if name == "base":
                made[name] = base_method()
            elif name == "lora":
                values = OmegaConf.to_container(config.baseline, resolve=True)
                assert isinstance(values, dict)
                held_out, repeats = values.pop("held_out"), values.pop("repeats")
                options = LoraOptions(**values, seed=config.seed)
                made[name] = lora_method(set_dir, backbone, cases, options, held_out=held_out, repeats=repeats)
            else:
                made[name] = lofa_method(set_dir, predictors[name], cases, name=name)
    return [
        shuffled(made[name.removesuffix(_SHUFFLED)], cases) if name.endswith(_SHUFFLED) else made[name]
        for name in config.methods
    ]


def _maps(
    set_dir: Place, predictors: dict[str, Predictor], cases: Sequence[Case], methods: Sequence[Method], shown: int = 2
) -> dict[str, list[LayerMaps]]:
    """True and predicted response maps of the first prompts, where both a LoRA and LoFA were made."""
    adapters = {method.name: method.adapters for method in methods}
    true, predicted = adapters.get("lora"), adapters.get("lofa")
    if true is None or predicted is None:
        return {}
    return {
        case.anchor.caption: response_maps(set_dir, predictors["lofa"], case, true[case.id], predicted[case.id])
        for case in cases[:shown]
    }


def _curves(predictors: dict[str, Predictor]) -> list[Curves]:
    """Training curves of both stages of LoFA, as far as they were logged."""
    if "lofa" not in predictors:
        return []
    logging.getLogger("tensorboard").setLevel(logging.WARNING)  # it tells of every file that it opens
    run = predictors["lofa"].description.folder.parent
    curves = []
    try:
        response = OmegaConf.select(read_run_config(run), "response")  # none: a demo's folder, with a copy alone
        stages = {"stage 1": Path(response), "stage 2": run} if isinstance(response, str) else {}
        for title, folder in stages.items():
            curves += read_curves(folder, title)
    except DataError:
        return curves  # a predictor without the run around it has no log
    return curves


def print_table(metrics: dict[str, Any]) -> None:
    """The closing table: every method, and every difference with its 95 % interval."""
    held_out = metrics["held_out"]
    table = Table(title=f"{held_out['prompts']} held-out prompts of {held_out['classes']} classes, 95 % intervals")
    for name in ("", *METRICS):
        table.add_column(name, justify="left" if not name else "right")
    for name, row in {**metrics["methods"], **metrics["differences"]}.items():
        if name in metrics["differences"] and name == next(iter(metrics["differences"])):
            table.add_section()
        table.add_row(name, *(_cell(row[key]) for key in METRICS))
    Console().print(table)


def _cell(value: dict[str, float]) -> str:
    return f"{value['value']:.3g}\n[{value['low']:.3g}, {value['high']:.3g}]"


COMMAND = Command(
    "eval",
    EvalConfig,
    evaluation,
    "compare base, per-sample LoRA and LoFA on held-out prompts",
    (
        "python eval.py data=<set> methods=[base,lora,lofa]",
        "python eval.py data=<set> predictor=<run> methods=[base,lofa,lofa_shuffled]",
        "python eval.py data=<set> methods=[base,lofa,single] +predictors.single=<run>",
    ),
    sections=("evaluation", "baseline", "metrics", "task", "backbone", "paths"),
    program="eval.py",
)
