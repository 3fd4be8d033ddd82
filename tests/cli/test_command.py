"""The wrapper around every command: verbatim values, help, exit codes."""

import os
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from lofa.cli import COMMANDS, main
from lofa.cli.command import run
from lofa.cli.options import list_options
from lofa.cli.pages import read_header
from tests.cli.test_text import NASTY


def record(arguments: list[str], command: str = "generate") -> list[dict[str, Any]]:
    """Configurations that a command's task is called with."""
    seen: list[dict[str, Any]] = []

    def task(config: Any) -> None:
        seen.append(asdict(config))

    assert run(replace(COMMANDS[command], task=task), arguments) == 0
    return seen


@pytest.mark.usefixtures("inside")
def test_prompts_reach_the_task_as_typed() -> None:
    for text in NASTY[1::8]:
        (config,) = record([f"prompt={text}", f"out={text}", "steps=2"])
        assert config["prompt"] == config["out"] == text
        assert config["steps"] == 2


@pytest.mark.usefixtures("inside")
def test_prompts_reach_every_job_of_a_sweep_as_typed() -> None:
    text = "it's (here), now! ${x} \\"
    configs = record(["-m", f"prompt={text}", "steps=2,3"])
    assert [(config["prompt"], config["steps"]) for config in configs] == [(text, 2), (text, 3)]


def test_a_command_leaves_nothing_behind(inside: Path) -> None:
    record(["prompt=x"])
    assert list(inside.iterdir()) == []


@pytest.mark.usefixtures("inside")
def test_while_a_job_runs_argv_is_its_own_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["lofa", "generate", "-m", "prompt=a, b", "steps=2,3"])
    seen: list[list[str]] = []
    command = replace(COMMANDS["generate"], task=lambda config: seen.append(list(sys.argv)))
    assert run(command, sys.argv[2:]) == 0
    assert seen == [["lofa", "generate", "prompt=a, b", f"steps={steps}"] for steps in (2, 3)]
    assert sys.argv == ["lofa", "generate", "-m", "prompt=a, b", "steps=2,3"]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_every_key_and_its_meaning(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = COMMANDS[name]
    assert main([name, "--help"]) == 0
    page = capsys.readouterr().out
    shown = {field: alias for alias, field in command.aliases.items()}
    for item in list_options(command.schema):
        if "." not in item.name and item.help:
            assert f"  {shown.get(item.name, item.name)} " in page
            assert item.help.split()[0] in page
    assert not re.findall(r"^  [\w.]+ +\[.*", page, re.MULTILINE)  # keys without a word
    assert all(example in page for example in read_header(name)[1])


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_the_list_of_commands(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    page = capsys.readouterr().out
    assert all(f"  {name} " in page for name in COMMANDS)


def test_faults_of_the_program_keep_their_traceback() -> None:
    def task(config: Any) -> None:
        raise ZeroDivisionError("a fault")

    with pytest.raises(ZeroDivisionError, match="a fault"):
        run(replace(COMMANDS["generate"], task=task), ["prompt=x"])


def test_the_exit_code_reaches_the_shell(tmp_path: Path) -> None:
    source = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    command = [sys.executable, "-m", "lofa.cli", "predct"]
    done = subprocess.run(command, cwd=tmp_path, env=source, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == "" and done.stderr == "lofa: no command 'predct'; did you mean predict or inspect?\n"
