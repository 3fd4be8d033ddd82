"""Every command opens the parts of a backbone that it needs, and no others: they work where the others are deleted."""

from contextlib import chdir
from pathlib import Path
from shutil import copytree, rmtree

import pytest
import torch

from lofa.cli import main
from lofa.files import read_json, read_tensors
from tests.cli.conftest import BACKBONE, SIZES, SMALL_NET

QUICK = (BACKBONE, *SMALL_NET, "debug=fast", "stages.s1.batch_size=3", "stages.s2.batch_size=3")
WEIGHTS = "models/wan/transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def copy(prepared: Path, tmp_path: Path) -> Path:
    for name in ("models", "data"):
        copytree(prepared / name, tmp_path / name)
    return tmp_path


def test_zoo_and_both_stages_need_the_denoiser_alone(copy: Path, prepared: Path) -> None:
    for part in ("text_encoder", "vae"):
        rmtree(copy / "models" / "wan" / part)
    rmtree(copy / "data" / "world" / "zoo")
    with chdir(copy):
        assert main(["zoo", BACKBONE, "zoo.steps=3", "zoo.warmup=1", "zoo.batch=4", "zoo.per_group=2"]) == 0
        assert main(["train", "stage=1", "name=first", *QUICK]) == 0
        assert main(["train", "stage=2", "name=second", "stages.s2.clips=0", *QUICK]) == 0
    for file in (prepared / "data" / "world" / "zoo").glob("*.safetensors"):
        again = read_tensors(copy / "data" / "world" / "zoo" / file.name)
        assert all(torch.equal(tensor, again[name]) for name, tensor in read_tensors(file).items())


def test_prepare_needs_text_encoder_and_autoencoder_alone(copy: Path, prepared: Path) -> None:
    weights = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).unlink()
    rmtree(copy / "data")
    with chdir(copy):
        assert main(["prepare", "source=world", BACKBONE, *SIZES]) == 0
        for file in (prepared / "data" / "world" / "encoded").glob("*.safetensors"):
            again = read_tensors(copy / "data" / "world" / "encoded" / file.name)
            assert all(torch.equal(tensor, again[name]) for name, tensor in read_tensors(file).items())
        (copy / WEIGHTS).write_bytes(weights)  # and what was prepared without them fits the model that has them
        assert main(["zoo", BACKBONE, "zoo.steps=3", "zoo.warmup=1", "zoo.batch=4", "zoo.per_group=2"]) == 0
        assert main(["train", "stage=1", "name=first", *QUICK]) == 0
    stamp = read_json(copy / "data" / "world" / "set.json")["backbone_fingerprint"]
    assert read_json(copy / "runs" / "first" / "run.json")["backbone_fingerprint"].startswith(f"{stamp}-")
