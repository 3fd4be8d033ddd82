"""benchmarks/hypernet.py runs through, and what it calls exact is the naive scheme's own numbers."""

import sys
from pathlib import Path

import pytest

from benchmarks import hypernet
from lofa.files import read_json


@pytest.mark.slow
def test_the_exact_way_gives_the_naive_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--size", "tiny", "--layers", "3", "--prompts", "2", "--repeats", "1", "--threads", "1"]
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)  # it would stay so for other tests
    monkeypatch.setattr(sys, "argv", ["hypernet.py", *options, "--out", str(tmp_path / "figures.json")])
    hypernet.main()
    figures = read_json(tmp_path / "figures.json")
    assert figures["latency"]["relative_difference"] <= 1e-5
    assert {"settings", "latency", "losses", "steps"} == figures.keys()


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["hypernet.py", "--device", "cuda"])
    hypernet.main()
    assert "no GPU here, nothing measured" in capsys.readouterr().out
