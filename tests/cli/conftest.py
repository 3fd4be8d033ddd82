"""A folder in which the whole pipeline was run once on random models, by the commands a user would type."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path

import pytest

from lofa.cli import main
from tests.helpers.tiny_wan import make_tiny_wan
from tests.metrics.networks import make_clip, make_video_features

SIZES = (
    "prepare.train_classes=3",
    "prepare.val_classes=1",
    "prepare.test_classes=2",
    "prepare.train_clips=2",
    "prepare.val_clips=2",
    "prepare.test_adapt=2",
    "prepare.test_score=2",
)
SMALL_NET = ("hypernet.d_model=24", "hypernet.n_heads=2", "hypernet.n_blocks=1", "hypernet.read_after=[0]")
BACKBONE = "backbone.path=models/wan"
JUDGES = ("metrics.clip=models/clip", "metrics.video=models/video")

Run = Callable[..., int]


def make_models(folder: Path) -> Path:
    """Writes wan/, whose prompts may be as long as the world's captions, clip/ and video/."""
    make_tiny_wan(folder / "wan")
    settings = folder / "wan" / "tokenizer" / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"model_max_length": 200}))
    make_clip(folder / "clip")
    make_video_features(folder / "video")
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of `make_models`."""
    return make_models(tmp_path_factory.mktemp("pipeline") / "models")


@pytest.fixture(scope="session")
def prepared(models: Path) -> Path:
    """Folder with models/ and a prepared set data/world with its zoo."""
    with chdir(models.parent):
        assert main(["prepare", "source=world", BACKBONE, *SIZES]) == 0
        assert main(["zoo", BACKBONE, "zoo.steps=3", "zoo.warmup=1", "zoo.batch=4", "zoo.per_group=2"]) == 0
    return models.parent


@pytest.fixture(scope="session")
def pipeline(prepared: Path) -> Path:
    """The same with the runs runs/first (stage 1) and runs/second (stage 2)."""
    quick = (BACKBONE, *SMALL_NET, "debug=fast", "stages.s1.batch_size=3", "stages.s2.batch_size=3")
    with chdir(prepared):
        assert main(["train", "stage=1", "name=first", *quick]) == 0
        assert main(["train", "stage=2", "name=second", "stages.s2.clips=1", *quick]) == 0
    return prepared


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[Path]:
    """An empty working directory."""
    with chdir(tmp_path):
        yield tmp_path
    assert "HYDRA_FULL_ERROR" not in os.environ
