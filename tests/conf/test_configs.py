"""Every file of conf/ composes, fits its schema and gives the objects it names; large backbones on the meta device."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning import Trainer

from lofa.backbones import Backbone, BackboneConfig, bare_backbone, known_backbones, read_config
from lofa.cli import COMMANDS
from lofa.cli.evaluate import build_recipes
from lofa.cli.objects import read_conditions
from lofa.cli.options import build, schema
from lofa.conditions import TextEncoder
from lofa.data import PrepareOptions
from lofa.errors import ConfigError
from lofa.evaluation import Protocol
from lofa.hypernets import HYPERNETS, HypernetOptions, Hypernetwork
from lofa.metrics import find_metrics
from lofa.resources import conf_dir
from lofa.training import AdapterModule, CsvLog, ResponseModule
from lofa.workflows import build_encoder, build_hypernet
from lofa.zoo import ZooOptions
from tests.cli.test_blueprints import bound

BLOCKS = {
    "sdxl-1.0": (70, {640, 1280, 2048}),
    "tiny-wan": (4, {96}),
    "wan2.1-t2v-1.3b": (30, {1536}),
    "wan2.1-t2v-14b": (40, {5120}),
    "wan2.2-t2v-a14b": (80, {5120}),
}
"""Backbone -> transformer blocks, and the columns of its layers."""
SIZES = {"num_layers": 4, "num_attention_heads": 4, "attention_head_dim": 24, "ffn_dim": 192, "text_dim": 64}
TINY = {"transformer": SIZES}
PRIMARY = sorted(COMMANDS)
INSTANTIATED = {
    "backbone", "callbacks", "datamodule", "debug", "evaluation", "experiment", "hypernet", "logger", "method",
    "metrics", "paths", "strategy", "task", "trainer", "training",
}  # fmt: skip


def options(group: str) -> list[str]:
    return sorted(file.stem for file in (conf_dir() / group).glob("*.yaml"))


@pytest.fixture(autouse=True, scope="module")
def hydra_directory() -> Iterator[None]:
    for name in COMMANDS:
        COMMANDS[name].register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield


def on_meta(name: str, **values: Any) -> Backbone:
    config = BackboneConfig(**{**vars(read_config(name)), **values})
    return bare_backbone(config if config.architecture else BackboneConfig(**{**vars(config), "architecture": TINY}))


def test_no_file_of_conf_is_forgotten() -> None:
    groups = {file.parent.name for file in conf_dir().glob("*/*.yaml")}
    assert groups == INSTANTIATED
    assert {file.stem for file in conf_dir().glob("*.yaml")} == {*PRIMARY, "pipeline", "quiet"}
    for file in conf_dir().rglob("*.yaml"):
        assert "# " in file.read_text().split("\n\n")[0], f"{file} says nothing of itself"


@pytest.mark.parametrize("name", PRIMARY)
def test_command(name: str) -> None:
    config = compose(name)
    assert set(config) == {str(key) for key in schema(COMMANDS[name].schema)}


def stages(config: Any, backbone: Backbone, width: int) -> list[Hypernetwork]:
    """The hypernetwork of the configuration as each of its stages begins with it."""
    options: HypernetOptions = build(config.hypernet)
    made: list[Hypernetwork] = []
    for stage in HYPERNETS[config.hypernet.kind].stages:
        earlier = made[-1].parts() if made else {}
        made.append(build_hypernet(options, backbone, stage, TextEncoder(width=width), earlier))
    return made


@pytest.mark.parametrize("name", sorted(BLOCKS))
@pytest.mark.parametrize("hypernet", ["tiny", "paper"])
def test_backbone_and_hypernet(name: str, hypernet: str) -> None:
    config = compose("train", [f"backbone={name}", f"hypernet={hypernet}"])
    assert build(config.backbone) == read_config(name)
    backbone = on_meta(name)
    blocks, widths = BLOCKS[name]
    assert len(backbone.layers) == 8 * blocks and {layer.in_features for layer in backbone.layers} == widths
    if hypernet == "tiny" and name != "tiny-wan":
        return  # each hypernet is for backbones of its size
    with torch.device("meta"):
        assert [list(made.parts()) for made in stages(config, backbone, 64)] == [["response"], ["response", "adapter"]]
        config.hypernet.kind = "single_stage"
        assert [list(made.parts()) for made in stages(config, backbone, 64)] == [["adapter"]]


def test_the_published_sizes() -> None:
    config, backbone = compose("train", ["hypernet=paper"]), on_meta("wan2.1-t2v-1.3b")
    with torch.device("meta"):
        made = stages(config, backbone, 4096)
    sizes = [sum(parameter.numel() for parameter in hypernet.parameters()) / 1e6 for hypernet in made]
    assert sizes == pytest.approx([199.3, 213.5], rel=0.03)


def test_every_backbone_is_known() -> None:
    assert known_backbones() == options("backbone") == sorted(BLOCKS)


@pytest.mark.parametrize("task", options("task"))
def test_task(task: str) -> None:
    config = build(compose("train", [f"task={task}"]))
    rows = {"text": torch.empty(3, 64), "pose": torch.empty(5, 15, 2)}
    conditions, classes = read_conditions(config.task)
    encoder = build_encoder(conditions, on_meta("tiny-wan"), rows, classes)
    made = build_hypernet(config.hypernet, on_meta("tiny-wan"), 1, encoder, {})
    assert made.trained.network.config.context_width == encoder.width


@pytest.mark.parametrize("training", options("training"))
def test_training(training: str) -> None:
    place = "s1" if training.startswith("response") else "s2"
    parts = bound(compose("train", [f"stage={place[1]}", f"training@stages.{place}={training}"]))
    optimizer = parts["optimizer"].make(torch.optim.Optimizer, [torch.nn.Parameter(torch.zeros(1))])
    scheduler = parts["scheduler"].make(torch.optim.lr_scheduler.LRScheduler, optimizer)
    assert 0 < scheduler.get_last_lr()[0] <= parts["optimizer"].settings["lr"]
    assert parts["module"].partial().func is {"s1": ResponseModule, "s2": AdapterModule}[place]


@pytest.mark.parametrize("strategy", options("strategy"))
def test_strategy(strategy: str) -> None:
    parts = bound(compose("train", ["stage=1", f"strategy={strategy}", "trainer=cpu"]))
    single = "strategy" not in parts
    plugin = "auto" if single else parts["strategy"].partial()()
    made = parts["trainer"].make(Trainer, devices=1 if single else 2, strategy=plugin, logger=False)
    assert (strategy == "single") == single and made.num_nodes == 1


@pytest.mark.parametrize("trainer", options("trainer"))
def test_trainer(trainer: str) -> None:
    part = bound(compose("train", ["stage=1", f"trainer={trainer}"]))["trainer"]
    here = "cpu" if part.settings["accelerator"] == "gpu" and not torch.cuda.is_available() else None
    assert isinstance(part.partial()(**({"accelerator": here} if here else {}), logger=False), Trainer)


@pytest.mark.parametrize("logger", [name for name in options("logger") if name != "wandb"])
def test_logger(logger: str, tmp_path: Path) -> None:
    part = bound(compose("train", ["stage=1", f"logger={logger}"])).get("logger")
    if part is not None:
        made = part.partial()(save_dir=str(tmp_path))
        folder = made.file.parent if isinstance(made, CsvLog) else Path(made.log_dir)
        assert folder == tmp_path / part.settings["version"]


@pytest.mark.parametrize("group", ["callbacks", "datamodule", "metrics", "paths", "evaluation"])
def test_plain_group(group: str) -> None:
    for option in options(group):
        check_options(compose("eval", [f"{group}={option}"]))


@pytest.mark.parametrize("method", options("method"))
def test_method(method: str) -> None:
    """Under its own name and, as a further method, under another."""
    config = build(compose("eval", [f"+method@method.another={method}"]))
    recipes = build_recipes(config)
    assert recipes["another"] == recipes[method]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["+method.lora.rnk=3"], "method.lora: unknown key rnk: did you mean rank"),
        (["method.lora.rank=many"], "method.lora: rank='many'"),
        (["method.lora.repeats=0"], "method.lora: .*repeats=0"),
        (["+method.mine.rank=3"], "method.mine: .*_target_"),
        (["method.lofa._target_=lofa.nothing.Here"], "method.lofa: _target_=lofa.nothing.Here: "),
    ],
)
def test_a_recipe_that_can_not_be_built_is_refused(values: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_recipes(build(compose("eval", values)))


@pytest.mark.parametrize("group", ["experiment", "debug"])
def test_global_group(group: str) -> None:
    for option in options(group):
        check_options(compose("eval", [f"{group}={option}"]))


@pytest.mark.parametrize("command", ["prepare", "zoo", "eval", "demo"])
def test_an_experiment_sets_every_command_of_the_pipeline_alike(command: str) -> None:
    experiment = ["experiment=jhmdb"]
    config, train = compose(command, experiment), compose("train", experiment)
    shared = set(config) & set(train) - {"name"}
    assert {"prepare", "zoo", "stages", "evaluation"} <= shared
    assert all(config[key] == train[key] for key in shared)


def check_options(config: Any) -> None:
    """The rooms take what the configuration says."""
    kinds = {"prepare": PrepareOptions, "zoo": ZooOptions, "evaluation": Protocol, "hypernet": HypernetOptions}
    whole = build(config)
    for name, kind in kinds.items():
        assert isinstance(getattr(whole, name), kind)
    recipes = build_recipes(whole)
    assert {"base", "lora", "lora_shared", "lofa", "lofa_sibling"} <= set(recipes)
    assert list(find_metrics(config.task.metrics))
    for stage in config.stages.values():
        assert stage.scheduler.warmup < (stage.scheduler.total or stage.max_steps)
    backbone = on_meta(config.backbone.name)
    with torch.device("meta"):
        stages(config, backbone, 64)
