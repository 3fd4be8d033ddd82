"""tests/mutants.py on a toy project: what counts as killed, what does not, and what is an error. Its rows for CI."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import mutants
from tests.mutants import Mutant, listed, run

SOURCE = "def twice(x: int) -> int:\n    return 2 * x  # noqa\n\n\ndef stop() -> bool:\n    return True\n"
TESTS = """import pytest

from toy import stop, twice


def test_twice():
    assert twice(3) == 6


def test_stop():
    while not stop():
        pass


def test_red():
    assert twice(3) == 7


@pytest.mark.slow
def test_slow():
    assert twice(0) == 1
"""
GREEN = "tests/test_toy.py::test_twice"


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A project of one module."""
    for name, text in (
        ("src/toy.py", SOURCE),
        ("tests/test_toy.py", TESTS),
        ("pyproject.toml", '[tool.pytest.ini_options]\npythonpath = ["src"]\nmarkers = ["slow"]\n'),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def mutant(old: str, new: str, tests: str = GREEN, reason: str = "") -> Mutant:
    return Mutant("src/toy.py", old, new, tests, f"{old} -> {new}", reason=reason)


KILLED = mutant("2 * x", "3 * x")
SURVIVES = mutant("# noqa", "# qa")
WANTED = [
    (KILLED, True, "killed"),
    (mutant("def twice", "def thrice"), True, "killed"),  # its tests cannot import it
    (mutant("return True", "return False", "tests/test_toy.py::test_stop"), True, "killed"),  # they hang
    (SURVIVES, False, "SURVIVED"),
    (mutant("# noqa", "# qa", reason="a comment"), True, "allowed"),
    (mutant("2 * x", "4 * x", reason="falsely"), False, "KILLED"),
    (mutant("5 * x", "4 * x"), False, "STALE (stale: `old` occurs 0 times"),
    (mutant("return", "yield"), False, "STALE (stale: `old` occurs 2 times"),
    (mutant("2 * x", "2 *"), False, "STALE (no Python"),
    (Mutant("src/gone.py", "2", "3", GREEN, "no such file"), False, "STALE ([Errno 2]"),
    (mutant("2 * x", "6 * x", "tests/test_toy.py::test_red"), False, "ERROR, pytest tests/test_toy.py::test_red ends"),
    (mutant("2 * x", "7 * x", "tests/test_toy.py::test_slow"), False, "ERROR"),  # left out: no test is left
    (mutant("2 * x", "8 * x", "tests/test_toy.py::test_gone"), False, "ERROR"),
]


def test_every_verdict(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutants, "LIMIT", (2.0, 1.0))
    shown: list[object] = []
    outcomes = run([wanted[0] for wanted in WANTED], toy, jobs=2, show=shown.append)
    assert shown == outcomes
    found = {outcome.mutant: outcome for outcome in outcomes}
    assert len(found) == len(WANTED)
    for one, good, text in WANTED:
        assert found[one].good == good and found[one].text.startswith(text), found[one]
    assert (toy / "src/toy.py").read_text() == SOURCE, "the working tree is left alone"


@pytest.mark.parametrize(("rows", "code"), [([KILLED], 0), ([KILLED, SURVIVES], 1)])
def test_the_command_ends_with_the_survivors_and_says_so_in_its_exit_code(
    rows: list[Mutant], code: int, toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (toy / "list.jsonl").write_text("".join(json.dumps(vars(row)) + "\n" for row in rows))
    monkeypatch.setattr(mutants, "ROOT", toy)
    monkeypatch.setattr(mutants, "LIST", toy / "list.jsonl")
    monkeypatch.setattr(sys, "argv", ["mutants"])
    with pytest.raises(SystemExit) as ended:
        mutants.main()
    assert ended.value.code == code
    printed = capsys.readouterr().out
    assert printed.count("# noqa -> # qa") == 2 * code and f"{len(rows)} mutants, {code} not" in printed


def test_the_list_can_be_applied() -> None:
    for row in listed():
        row.applied((mutants.ROOT / row.file).read_text())


@pytest.mark.slow
def test_the_rows_for_ci_are_killed() -> None:
    assert sum(row.ci for row in listed()) == 10
    command = [sys.executable, "-m", "tests.mutants", "--only", "ci", "--jobs", "1"]
    done = subprocess.run(command, cwd=mutants.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
