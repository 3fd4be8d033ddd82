"""Values no command can work with: exit code 2 and one message that names the key, before anything is written."""

import re
import shutil
from contextlib import chdir
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from lofa.cli import COMMANDS, main
from lofa.cli.options import build
from lofa.errors import ConfigError
from lofa.resources import conf_dir
from tests.cli.conftest import BACKBONE, SMALL_NET

BIG = 2**32
OUT_OF_RANGE: dict[str, tuple[list[str], dict[str, list[object]]]] = {
    "train": (
        ["stage=1"],
        {
            "seed": [-1, BIG],
            "hypernet.n_blocks": [0],
            "hypernet.tau": ["nan"],
            "stages.s1.max_steps": [0, -1],
            "stages.s1.batch_size": [0],
            "stages.s1.accumulate": [0],
            "stages.s1.layers_per_sample": [0],
            "stages.s1.val_every": [0, -1],
            "stages.s1.optimizer.lr": ["inf"],
            "stages.s1.optimizer.betas": ["[nan,0.9]"],
            "stages.s1.module.penalty": ["nan"],
            "stages.s2.clips": [-1],
            "stages.s2.clips_every": [0],
            "datamodule.workers": [-1],
            "trainer.gradient_clip_val": ["nan"],
            "strategy.num_nodes": [0],
        },
    ),
    "zoo": ([], {"seed": [-1, 2**70], "zoo.alpha": ["inf"], "zoo.weight_decay": ["inf"], "zoo.clip_norm": ["nan"]}),
    "prepare": (["source=world"], {"seed": [-1], "prepare.fps": ["nan", "inf"]}),
    "eval": ([], {"seed": [-1]}),
    "finetune": ([], {"seed": [-1], "finetune.lr": ["nan"]}),
    "generate": (
        ["prompt=x"],
        {
            "seed": [-1, BIG],
            "fps": [-8, 0, "nan", 1e-9],
            "guidance": [-1, "nan"],
            "strength": ["nan", "inf"],
            "steps": [0],
            "frames": [-1],
            "width": [-16],
            "height": [0],
        },
    ),
    "merge": (["adapter=x", "out=y"], {"strength": ["nan"]}),
    "inspect": (["path=."], {"tau": [-1, "nan"]}),
    "pretrain": (
        [],
        {"recipe.seed": [-1], "recipe.transformer.steps": [0], "recipe.clip.lr": [-1], "recipe.heads": [0]},
    ),
}
CASES = [
    (command, (*values, f"{key}={bad}"), key)
    for command, (values, keys) in OUT_OF_RANGE.items()
    for key, bads in keys.items()
    for bad in bads
]


@cache
def composed(command: str, *values: str) -> DictConfig:
    """The configuration of a command line that is right."""
    name, *groups = command.split()
    COMMANDS[name].register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose(name, [*groups, *values])


@pytest.mark.parametrize(
    ("command", "values", "key"), [case for case in CASES if case[0] != "pretrain"], ids=lambda part: str(part[-1])
)
def test_a_number_out_of_range_is_refused(command: str, values: tuple[str, ...], key: str) -> None:
    *right, wrong = values
    config = deepcopy(composed(command, *right))
    build(config)
    OmegaConf.update(config, key, OverridesParser.create().parse_override(wrong).value())
    with pytest.raises(ConfigError, match=rf"^{re.escape(key)}="):
        build(config)


@pytest.mark.parametrize(
    ("command", "values", "key"),
    # a recipe's numbers are looked at by the recipe, those of the other commands all in one place
    [next(case for case in CASES if case[0] == name) for name in OUT_OF_RANGE if name != "pretrain"]
    + [case for case in CASES if case[0] == "pretrain"],
    ids=lambda part: str(part[-1]),
)
def test_every_command_looks_at_its_numbers_before_anything_else(
    command: str, values: tuple[str, ...], key: str, inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command.split(), *values]) == 2
    message = capsys.readouterr().err
    assert key.rpartition(".")[2] in message and message.count("\n") == 1
    assert list(inside.iterdir()) == []


TRAIN = ("train", "stage=1", BACKBONE, *SMALL_NET, "debug=fast")
TOGETHER: dict[str, tuple[tuple[str, ...], str]] = {
    "no rank": ((*TRAIN, "hypernet.lora_rank=0"), "hypernet.lora_rank=0: must be at least 1"),
    "negative rate": ((*TRAIN, "stages.s1.optimizer.lr=-1"), "stages.s1.optimizer: Invalid learning rate: -1"),
    "one beta": ((*TRAIN, "stages.s1.optimizer.betas=[0.9]"), "stages.s1.optimizer: "),
    "negative warm-up": ((*TRAIN, "stages.s1.scheduler.warmup=-1"), "stages.s1.scheduler: warmup=-1"),
    "a floor above the rate": ((*TRAIN, "stages.s1.scheduler.floor=2"), "stages.s1.scheduler: "),
    "negative penalty": ((*TRAIN, "stages.s1.module.penalty=-1"), "stages.s1.module: penalty must be at least 0"),
    "no diagnostics": ((*TRAIN, "stages.s1.module.diagnostics_every=0"), "diagnostics_every must be at least 1"),
    "negative logging": ((*TRAIN, "trainer.log_every_n_steps=-1"), "trainer.log_every_n_steps=-1"),
    "negative clipping": ((*TRAIN, "trainer.gradient_clip_val=-1"), "trainer.gradient_clip_val=-1"),
    "negative validation": ((*TRAIN, "trainer.limit_val_batches=-1"), "trainer: "),
    "no optimizer": (
        (*TRAIN, "stages.s1.optimizer._target_=builtins.dict", "stages.s1.optimizer.lr=1"),
        "stages.s1.optimizer: ",
    ),
    "warm-up as long as the training": (
        (*TRAIN, "stages.s1.max_steps=20", "stages.s1.scheduler.warmup=20"),
        "stages.s1.scheduler: a warm-up of 20 steps leaves nothing of a training of 20 steps",
    ),
    "no schedule": ((*TRAIN, "stages.s1.scheduler._target_=math.sin"), "stages.s1.scheduler: "),
    "no module": ((*TRAIN, "stages.s1.module._target_=builtins.dict"), "stages.s1.module: gives a dict"),
    "no devices": ((*TRAIN, "strategy.devices=0"), "trainer: "),
    "devices of no kind": ((*TRAIN, "strategy.devices=true"), "strategy.devices=True"),
    "unknown precision": ((*TRAIN, "trainer.precision=abc"), "trainer: "),
    "unknown device": ((*TRAIN, "device=tpu9"), "device=tpu9"),
    "a device without memory": ((*TRAIN, "device=meta"), "device=meta"),
    "encoder of another width": (
        (*TRAIN, "+task.conditions.text.width=7"),
        "task.conditions.text.width=7: it is 64 here",
    ),
    "unknown condition": ((*TRAIN, "+task.conditions.smell={}"), "no kind of condition 'smell'"),
    "no condition": ((*TRAIN, "~task.conditions.text"), "task=text_action names none"),
    "conditions of two widths": (
        (*TRAIN, "+task.conditions.pose={joints:15,width:8}"),
        "tokens of all conditions must be of one width; got text 64, pose 8",
    ),
    "no encoder": ((*TRAIN, "+task.conditions.text._target_=math.sin"), "task.conditions.text._target_=math.sin"),
    "encoder without channels": (
        (*TRAIN, "task=pose_action", "task.conditions.pose.channels=0"),
        "sizes must be at least 1",
    ),
    "a curve without points": (
        ("finetune", BACKBONE, "finetune.validate_every=0"),
        "finetune.validate_every=0",
    ),
    "negative frame rate": (("prepare", "source=world", BACKBONE, "data=other", "prepare.fps=-8"), "prepare.fps=-8"),
}


@pytest.mark.parametrize("case", TOGETHER)
def test_values_that_do_not_fit_leave_nothing_behind(
    case: str, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, words = TOGETHER[case]
    with chdir(prepared):
        assert main([*arguments, f"paths.runs={tmp_path}", "name=burnt"]) == 2
        assert not Path("data/other").exists()
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_configuration_is_checked_too(
    pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(pipeline / "runs" / "first", tmp_path / "run"))
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("val_every: 1", "val_every: 0"))
    with chdir(pipeline):
        assert main(["train", f"resume={run}"]) == 2
    assert "stages.s1.val_every=0: must be at least 1" in capsys.readouterr().err
