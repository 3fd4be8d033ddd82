"""Sets, zoos, predictors and runs that LoFA 0.1.0 wrote (commit 925fb01) open, and give what they gave then.

tests/old holds them: twelve clips of the world with a zoo of three LoRAs (rank 2), predictors of a few steps (text,
pose, and one with the published network's mistakes), and a run of stage 1 with its checkpoint. expected.safetensors
holds what 925fb01 computed from them: of every tensor above 200 entries, each 97th.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import chdir
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lofa import Adapter, Backbone, Predictor, load_backbone
from lofa.cli import main

OLD = Path(__file__).parents[1] / "old"
PROMPT = "a figure waves the left arm"
ANCHOR = "circle-left-arm-counterclockwise-small-slow-000"
QUICK = ("stages.s2.max_steps=2", "stages.s2.val_every=1", "stages.s2.clips=0", "stages.s2.scheduler.warmup=1")
NET = ("hypernet.d_model=16", "hypernet.n_blocks=1", "hypernet.n_heads=2", "hypernet.read_after=[0]", "logger=none")


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    return load_file(OLD / "expected.safetensors")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("tiny-wan")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A copy of the old files, as the working directory."""
    shutil.copytree(OLD, tmp_path / "old")
    with chdir(tmp_path / "old"):
        yield tmp_path / "old"


def check(expected: Mapping[str, Tensor], name: str, found: Tensor) -> None:
    wanted = expected[name]
    sampled = found if found.numel() < 200 else found.reshape(-1)[::97]
    torch.testing.assert_close(sampled, wanted, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["text", "quirk"])
def test_a_predictor_of_text_gives_the_same_adapter(expected: dict[str, Tensor], backbone: Backbone, name: str) -> None:
    adapter = Predictor.load(OLD / "runs" / f"{name}2", backbone=backbone).predict(PROMPT)
    layers = [key.removeprefix(f"{name}/") for key in expected if key.startswith(f"{name}/")]
    assert len(layers) == 3
    for layer in layers:
        check(expected, f"{name}/{layer}", adapter.delta_weight(layer))


def test_a_predictor_of_poses_gives_the_same_adapter(expected: dict[str, Tensor], backbone: Backbone) -> None:
    pose = load_file(OLD / "data" / "old" / "encoded" / f"{ANCHOR}.safetensors")["condition.pose"]
    adapter = Predictor.load(OLD / "runs" / "pose2", backbone=backbone).predict(pose=pose)
    layers = [key.removeprefix("pose/") for key in expected if key.startswith("pose/")]
    assert len(layers) == 3
    for layer in layers:
        check(expected, f"pose/{layer}", adapter.delta_weight(layer))


def test_loss_clip_and_response_map_are_the_same(expected: dict[str, Tensor], backbone: Backbone) -> None:
    predictor = Predictor.load(OLD / "runs" / "text2", backbone=backbone)
    adapter = predictor.predict(PROMPT)
    layer = "transformer.blocks.0.attn1.to_q"
    check(expected, f"map/{layer}", predictor.response_map(PROMPT)[layer])
    files = load_file(OLD / "data" / "old" / "encoded" / f"{ANCHOR}.safetensors")
    caption = next(line for line in (OLD / "data" / "old" / "samples.jsonl").read_text().splitlines() if ANCHOR in line)
    condition = backbone.encode_prompt([caption.partition('"caption": "')[2].partition('"')[0]])
    for name, carried in {"loss/base": None, "loss/text": adapter}.items():
        generator = torch.Generator().manual_seed(0)
        level = torch.tensor([0.5])
        check(
            expected,
            name,
            backbone.denoising_loss(
                files["latents"][None].float(), condition, carried, noise_level=level, generator=generator
            ),
        )
    clip = backbone.generate(PROMPT, adapter, steps=3, seed=1)
    sampled, wanted = clip.reshape(-1)[::97].int(), expected["clip"].int()
    assert (sampled - wanted).abs().max() <= 1


def test_the_loras_of_a_zoo_load() -> None:
    files = sorted((OLD / "data" / "old" / "zoo").glob("*.safetensors"))
    assert len(files) == 3
    assert all(len(Adapter.load(file)) == 32 for file in files)


def test_an_old_zoo_is_finished(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = ("zoo.rank=2", "zoo.steps=4", "zoo.warmup=1", "zoo.batch=4", "zoo.per_group=1", "zoo.clips_per_step=1")
    assert main(["zoo", "data=old", *size]) == 0
    assert "0 LoRAs trained, 3 were there already" in capsys.readouterr().out
    assert main(["zoo", "data=old", "action=verify", *size]) == 0


def test_stage_two_reads_an_old_set_zoo_and_stage_one(folder: Path) -> None:
    assert main(["train", "stage=2", "data=old", "response=runs/text1", "name=new", *NET, *QUICK]) == 0
    assert len(Predictor.load("runs/new").predict(PROMPT)) == 32


def test_an_old_run_goes_on(folder: Path) -> None:
    assert main(["train", "resume=runs/text1", "stages.s1.max_steps=6"]) == 0
    assert '"steps": 6' in (folder / "runs" / "text1" / "run.json").read_text()
