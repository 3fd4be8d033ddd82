"""From a folder of images to a file that diffusers' own pipeline loads."""

from contextlib import chdir
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image

import lofa
from lofa.cli import main
from lofa.data import read_samples
from tests.cli.conftest import SMALL_NET
from tests.helpers.tiny_sdxl import make_tiny_sdxl

BACKBONE = ("backbone.path=model", "backbone.family=sdxl")
QUICK = (*BACKBONE, *SMALL_NET, "debug=fast", "stages.s1.batch_size=2", "stages.s2.batch_size=2", "logger=none")
COLOURS = ("red", "blue", "green", "gold")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and images of four classes, each in a folder of its own, with captions beside them."""
    folder = tmp_path_factory.mktemp("sdxl")
    make_tiny_sdxl(folder / "model")
    for colour in COLOURS:
        (folder / "images" / colour).mkdir(parents=True)
        for number, ending in enumerate(("png", "jpg", "webp")):
            file = folder / "images" / colour / f"{number}.{ending}"
            Image.new("RGB", (40 + 4 * number, 48), colour).save(file)
            file.with_suffix(".txt").write_text(f"a {colour} square")
    return folder


def test_images_become_an_adapter_that_the_pipeline_loads(work: Path) -> None:
    with chdir(work):
        drawn = ("prepare.val_fraction=0", "prepare.test_fraction=0", "prepare.dtype=float32")
        assert main(["prepare", "source=images", "data=set", *BACKBONE, *drawn]) == 0
        samples = read_samples(work / "data" / "set")
        assert len(samples) == 12 and {(sample.frames, sample.size) for sample in samples} == {(1, (32, 32))}
        zoo = ("zoo.steps=2", "zoo.warmup=1", "zoo.batch=2", "zoo.per_group=1", "zoo.clips_per_step=1")
        assert main(["zoo", "data=set", *BACKBONE, *zoo]) == 0
        assert main(["train", "stage=1", "data=set", *QUICK]) == 0
        assert (
            main(
                [
                    "train",
                    "stage=2",
                    "data=set",
                    "stages.s2.clips=0",
                    "stages.s2.optimizer.lr=0.1",
                    "name=second",
                    *QUICK,
                ]
            )
            == 0
        )
        for format in ("diffusers", "kohya"):
            out = (f"out={format}.safetensors", f"format={format}")
            assert main(["predict", "predictor=runs/second", "prompt=a red square", *out]) == 0
    backbone = lofa.load_backbone(work / "model")
    adapter = lofa.Adapter.load(work / "diffusers.safetensors")
    condition, x_t = backbone.encode_prompt(["a red square"]), torch.randn(1, 4, 1, 16, 16)
    batch = backbone.adapter_batch(adapter)
    with torch.no_grad():
        found = backbone.predict(x_t, torch.tensor([0.5]), condition, batch, torch.zeros(1, dtype=torch.int64))
        size = torch.tensor([[32, 32, 0, 0, 32, 32]])
        added = {"text_embeds": condition.extras["pooled"], "time_ids": size}
        for format in ("diffusers", "kohya"):
            pipeline = StableDiffusionXLPipeline.from_pretrained(work / "model")
            bare = pipeline.unet(x_t[:, :, 0], 500, condition.tokens, added_cond_kwargs=added).sample
            pipeline.load_lora_weights(work / f"{format}.safetensors")
            expected = pipeline.unet(x_t[:, :, 0], 500, condition.tokens, added_cond_kwargs=added).sample
            torch.testing.assert_close(found[:, :, 0], expected, rtol=0, atol=1e-5)
            assert (expected - bare).abs().max() > 1e-3, "the adapter does something"


def test_a_video_among_images_is_named(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = work / "mixed"
    folder.mkdir()
    frames = [Image.new("RGB", (32, 32), colour) for colour in COLOURS]
    frames[0].save(folder / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "b.png")
    for name in "ab":
        (folder / f"{name}.txt").write_text("a red square")
    with chdir(work):
        assert main(["prepare", "source=mixed", "data=mixed_set", *BACKBONE, "prepare.test_fraction=0"]) == 0
    assert "a.gif: a moving picture, where images are wanted" in "".join(capsys.readouterr().out.split("\n"))
    assert [sample.id for sample in read_samples(work / "data" / "mixed_set")] == ["b-png-5f59d8"]
