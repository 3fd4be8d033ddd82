"""What a user named to be written: refused before anything is computed where something stands, never emptied."""

from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path
from unittest import mock

import pytest

import lofa
from lofa.backbones import Backbone
from lofa.cli import main
from tests.helpers.adapters import random_adapter

COMMANDS = {
    "convert": ["convert", "in=a.safetensors"],
    "convert to PEFT": ["convert", "in=a.safetensors", "format=peft"],
    "convert a set": ["convert", "in=set", "format=reference"],
    "predict": ["predict", "predictor=run", "prompt=x"],
    "predict to PEFT": ["predict", "predictor=run", "prompt=x", "format=peft"],
    "generate": ["generate", "prompt=x"],
    "finetune": ["finetune", "data=set"],
    "merge": ["merge", "adapter=a.safetensors", "backbone=tiny-wan"],
    "inspect": ["inspect", "path=a.safetensors"],
}
ENDINGS = {"generate": ".mp4", "inspect": ".png"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_wan_random: Path) -> Path:
    """Holds an adapter file, and a set that is none behind its first line."""
    folder = tmp_path_factory.mktemp("targets")
    random_adapter(lofa.load_backbone(tiny_wan_random).layers).save(folder / "a.safetensors")
    (folder / "set").mkdir()
    (folder / "set" / "samples.jsonl").touch()
    return folder


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("overwrite", ["false", "true"])
def test_a_folder_with_work_in_it_is_refused_by_every_command(
    name: str, overwrite: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"thesis{ENDINGS.get(name, '')}"
    out.mkdir()
    (out / "chapter1.txt").write_text("years of work")
    with chdir(place), mock.patch.object(Backbone, "generate", side_effect=AssertionError("something was computed")):
        assert main([*COMMANDS[name], f"out={out}", f"overwrite={overwrite}"]) == 2
    said = capsys.readouterr().err
    assert f"{out}: a folder (chapter1.txt) stands there, which is never replaced" in said and said.count("\n") == 1
    assert [path.name for path in tmp_path.rglob("*")] == [out.name, "chapter1.txt"]


@pytest.mark.parametrize("values", [["in=a.safetensors"], ["in=a.safetensors", "format=peft"]])
def test_overwrite_replaces_what_the_command_wrote(
    values: Sequence[str], place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x"
    with chdir(place):
        assert main(["convert", *values, f"out={out}"]) == 0
        assert main(["convert", *values, f"out={out}", "rank=1"]) == 2
        assert "exists already; give another name, or replace it with overwrite=true" in capsys.readouterr().err
        assert main(["convert", *values, f"out={out}", "rank=1", "overwrite=true"]) == 0
    assert {pair.rank for pair in lofa.Adapter.load(out).values()} == {1}
    assert list(tmp_path.iterdir()) == [out]


def test_the_files_beside_an_adapter_are_asked_for_too(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tuned.html").write_text("mine")
    with chdir(place):
        assert main(["finetune", "data=set", f"out={tmp_path}/tuned.safetensors"]) == 2
        assert "tuned.html: exists already" in capsys.readouterr().err
        assert main(["finetune", "data=set", f"out={tmp_path}/tuned.json"]) == 2
        assert "the curve goes there" in capsys.readouterr().err
    assert (tmp_path / "tuned.html").read_text() == "mine"


@pytest.mark.parametrize("values", [["format=kohya"], ["format=reference"], ["format=peft"]])
def test_a_full_disk_is_one_message(
    values: Sequence[str], place: Path, full_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (full_disk / "fill").write_bytes(bytes(250_000))
    with chdir(place):
        out = full_disk / ("x.pth" if "reference" in values[0] else "x")
        assert main(["convert", "in=a.safetensors", f"out={out}", *values]) == 2
    said = capsys.readouterr().err
    assert f"{out}" in said and "No space left on device" in said and "run the same command again" in said
    assert said.count("\n") == 1 and [path.name for path in full_disk.iterdir()] == ["fill"]
