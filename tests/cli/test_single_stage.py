"""A single stage goes from a set with its zoo to an adapter file without a run of stage 1."""

import json
import re
from contextlib import chdir
from pathlib import Path

import pytest

from lofa.adapters import Adapter
from lofa.cli import main
from lofa.predict import Predictor
from tests.cli.conftest import BACKBONE, SMALL_NET

QUICK = (BACKBONE, *SMALL_NET, "debug=fast", "stages.s2.batch_size=3", "hypernet.kind=single_stage")


def test_it_trains_and_predicts(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with chdir(prepared):
        assert main(["train", "stage=2", "name=single", *QUICK]) == 0
        files = sorted(file.name for file in Path("runs/single/predictor").iterdir())
        assert files == ["adapter.safetensors", "predictor.json"]
        assert json.loads(Path("runs/single/run.json").read_text())["stage"] == 2
        assert main(["predict", "predictor=runs/single", "prompt=a figure waves", "out=single.safetensors"]) == 0
        assert len(Adapter.load("single.safetensors")) == 16
        capsys.readouterr()
        asked = ["convert", "in=data/world", "format=reference", "out=published", "predictor=runs/single"]
        assert main(asked) == 2
        assert "a single_stage predictor has no response map" in capsys.readouterr().err
        assert not Path("published").exists()


@pytest.mark.parametrize("kind", ["text_to_lora", "prompt_tokens", "lightweight"])
def test_what_it_is_compared_with_trains_and_predicts_too(kind: str, prepared: Path) -> None:
    with chdir(prepared):
        steps = ("stages.s2.clips=0", "stages.s2.optimizer.lr=0.05", "logger=none")
        assert main(["train", "stage=2", f"name={kind}", *QUICK, *steps, f"hypernet.kind={kind}"]) == 0
        one, other = (
            Predictor.load(f"runs/{kind}").predict(prompt=prompt) for prompt in ("a figure waves", "a red circle jumps")
        )
    assert one.distance(dict(other.items())) > 1e-3, "the prompt is read: rounding alone gives 5e-16"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("stage=1",), "stage=1: hypernet.kind=single_stage has no such stage; train it with stage=2"),
        (("stage=2", "response=runs/first"), "response=runs/first: hypernet.kind=single_stage reads no other run"),
        (("stage=2", "hypernet.kind=singel_stage"), "hypernet.kind=singel_stage: .*single_stage"),
        (("stage=2", "hypernet.head=core"), "hypernet.head=core: .*published"),
    ],
)
def test_what_it_has_not_is_one_message(
    values: tuple[str, ...], message: str, prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with chdir(prepared):
        assert main(["train", "name=wrong", *QUICK, *values]) == 2
        assert not Path("runs/wrong").exists()
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert re.search(message, error), error
