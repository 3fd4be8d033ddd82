"""The pipeline with its data set in an object store: the same commands, the same numbers."""

from contextlib import chdir
from pathlib import Path
from uuid import uuid4

import pytest

from lofa.cli import main
from lofa.files import read_tensors
from tests.cli.conftest import BACKBONE, SIZES, SMALL_NET

QUICK = (BACKBONE, *SMALL_NET, "debug=fast", "stages.s1.batch_size=3", "stages.s2.batch_size=3")
ZOO = ("zoo.steps=3", "zoo.warmup=1", "zoo.batch=4", "zoo.per_group=2")


def test_a_set_in_a_store_trains_the_predictor_of_a_set_on_a_disk(
    pipeline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = f"data=memory://bucket/{uuid4().hex}"
    with chdir(pipeline):
        assert main(["train", "stage=1", "name=early", data, *QUICK]) == 2
        assert f"lofa prepare source=<folder|csv|poses.npz|world> {data}" in capsys.readouterr().err
        assert main(["prepare", "source=world", data, BACKBONE, *SIZES]) == 0
        assert main(["zoo", data, BACKBONE, *ZOO]) == 0
        assert main(["train", "stage=1", "name=far-first", data, *QUICK]) == 0
        assert main(["train", "stage=2", "name=far-second", "stages.s2.clips=1", data, *QUICK]) == 0
        for name in ("response", "adapter"):
            near, far = (read_tensors(f"runs/{run}/predictor/{name}.safetensors") for run in ("second", "far-second"))
            assert all(far[key].equal(tensor) for key, tensor in near.items())
        assert list(Path("data").iterdir()) == [Path("data/world")]
