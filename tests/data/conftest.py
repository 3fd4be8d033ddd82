"""Videos, pose files, a backbone and a prepared set with a zoo, all small."""

from pathlib import Path
from shutil import copytree

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from lofa.adapters import Adapter
from lofa.backbones import Backbone, load_backbone
from lofa.data import PrepareOptions, ZooEntry, ZooStore, prepare, read_samples
from tests.helpers import adapters

FRAMES, SIDE = 5, 32
QUIET = Console(quiet=True)
WORLD = PrepareOptions(
    train_classes=3,
    val_classes=2,
    test_classes=2,
    train_clips=3,
    val_clips=2,
    test_adapt=1,
    test_score=1,
    dtype="float32",
)


@pytest.fixture(scope="session")
def backbone(tiny_wan_random: Path) -> Backbone:
    """The random backbone, its prompts long enough for the world's captions."""
    loaded = load_backbone(str(tiny_wan_random))
    loaded.max_prompt_tokens = 200
    return loaded


def write_video(path: Path, frames: NDArray[np.uint8], fps: int = 8) -> Path:
    """Writes (T, H, W, 3) with the codec usual for the suffix."""
    codec, pixels = {".gif": ("gif", "rgb8"), ".webm": ("libvpx-vp9", "yuv420p"), ".avi": ("mpeg4", "yuv420p")}.get(
        path.suffix, ("libx264", "yuv420p")
    )
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels)))
        container.mux(stream.encode())
    return path


def grey_ramp(frames: int, height: int = 32, width: int = 48) -> NDArray[np.uint8]:
    """Frame k is of one grey, 40 + 8 k: what was read tells which frame it was."""
    levels = (40 + 8 * np.arange(frames)).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (frames, height, width, 3)).copy()


@pytest.fixture(scope="session")
def prepared(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of the world, without a zoo; not to be changed."""
    set_dir = tmp_path_factory.mktemp("sets") / "small"
    prepare("world", set_dir, backbone, WORLD, QUIET)
    return set_dir


def random_adapter(backbone: Backbone, seed: int, rank: int = 2) -> Adapter:
    """A LoRA for every layer."""
    return adapters.random_adapter(backbone.layers, rank, 0.5, seed, scale=1.0)


def add_zoo(set_dir: Path, backbone: Backbone) -> ZooStore:
    """Gives every training and validation class of a set one LoRA, anchored at its first sample."""
    store = ZooStore(set_dir)
    header = {"backbone": backbone.name, "backbone_fingerprint": backbone.fingerprint}
    for seed, sample in enumerate(read_samples(set_dir)):
        if sample.split != "test" and sample.id.endswith("-000"):
            store.add(random_adapter(backbone, seed), ZooEntry(sample.id, "ok", 0.2, 0.1), "1-of-1", header)
    return store


@pytest.fixture(scope="session")
def zoo_set(prepared: Path, backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared set with a zoo; not to be changed."""
    set_dir = copytree(prepared, tmp_path_factory.mktemp("zoo") / "set")
    add_zoo(set_dir, backbone)
    return set_dir
