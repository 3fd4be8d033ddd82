"""Makes small wrong changes to the source, one at a time, and runs the tests that have to notice.

    python -m tests.mutants                       # the whole list, `tests/mutants.jsonl`
    python -m tests.mutants --jobs 2 --match training/
    python -m tests.mutants --only ci             # the rows that CI runs

A row of the list is a JSON object on one line:

    file            what is changed
    old, new        a text that occurs exactly once in the file, and what takes its place
    tests           pytest's arguments: the tests that have to fail, without the slow ones unless it says `-m slow`
    wrong_because   what is wrong with the change
    ci              true: CI runs it
    reason          why the change alters nothing that matters; such a mutant may live, and must

Everything happens in copies of the project, one a job; the working tree is left alone. First the tests of every row run
without a change: they must pass, and say how long they take, so that the cheap ones go first. A mutant is killed where
they then fail, cannot import it, or take more than ten times as long. The exit code is 1 where
- a mutant without a reason lives, or one with a reason is killed,
- a text does not occur exactly once, or the change is no Python,
- tests are red, or there are none, without the change, or they end in another way than by passing or failing.
"""

import argparse
import gc
import importlib
import json
import multiprocessing
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]
LIST = Path(__file__).with_name("mutants.jsonl")
FOLDERS = ("src", "tests", "conf", "data/tiny-wan", "data/tiny-metrics", "benchmarks", "docs", "notebooks")
FILES = ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "Makefile", "train.py", "eval.py")
"""What the tests read of the project."""
PASSED = pytest.ExitCode.OK
FAILED = (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED, pytest.ExitCode.USAGE_ERROR)
"""Also the codes of a test module and of a conftest.py that cannot be imported: without the change they could."""
FORK = multiprocessing.get_context("fork")
WARM: tuple[str, ...] = ("lightning.pytorch", "torch.utils.tensorboard", "peft", "torchmetrics", "hydra", "av")
WARM += ("diffusers.pipelines.wan.pipeline_wan", "transformers.models.umt5.modeling_umt5")
WARM += ("transformers.models.clip.modeling_clip", "transformers.models.videomae.modeling_videomae")
"""Imported once, before the forks: most of the time of most tests."""
LIMIT = (60.0, 10.0)
"""Seconds that the tests of a mutant may take: so many, and so many times what they take without it."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Mutant:
    """A row of the list; the module's docstring says what the fields mean."""

    file: str
    old: str
    new: str
    tests: str
    wrong_because: str
    ci: bool = False
    reason: str = ""

    def applied(self, source: str) -> str:
        """The changed source; ValueError where it cannot be made."""
        if source.count(self.old) != 1:
            raise ValueError(f"stale: `old` occurs {source.count(self.old)} times in it, not once")
        changed = source.replace(self.old, self.new)
        try:
            compile(changed, self.file, "exec")
        except SyntaxError as error:
            raise ValueError(f"no Python: {error}") from error
        return changed


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant: whether that is as it should be, and in words."""

    mutant: Mutant
    good: bool
    text: str

    def __str__(self) -> str:
        return f"{self.text}: {self.mutant.file}: {self.mutant.wrong_because}"


@dataclass(frozen=True)
class Run:
    """A run of pytest: its exit code (None: it took too long), seconds, and the end of what it printed."""

    code: int | None
    seconds: float
    tail: str


def run_tests(tree: Path, tests: str, limit: float | None = None) -> Run:
    """Runs the tests of a copy on the source of that copy, in a fork: what is imported need not be imported again."""
    log = tree.with_suffix(".log")
    begun = time.perf_counter()
    process = FORK.Process(target=_pytest, args=(tree, tests, log))
    process.start()
    process.join(limit)
    late = process.is_alive()
    if late:
        for one in (*psutil.Process(process.pid).children(recursive=True), process):
            one.kill()
        process.join()
    return Run(None if late else process.exitcode, time.perf_counter() - begun, log.read_text()[-2000:])


def _pytest(tree: Path, tests: str, log: Path) -> None:
    """Never returns.

    Compiled files are neither written nor read: two versions of one length within a second would share them. Plugins
    stay out: they cost more than some of the tests.
    """
    gc.freeze()  # pytest collects several times; what was there before is none of its garbage
    own = {path.stem for path in (tree / "src").iterdir()} | {"tests"}
    for name in [name for name in sys.modules if name.partition(".")[0] in own]:
        del sys.modules[name]
    paths = [str(tree / "src"), str(tree)]
    sys.path[:0], sys.dont_write_bytecode = paths, True
    os.environ |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
    os.environ |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OMP_NUM_THREADS": "1"}
    os.chdir(tree)
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    temporary = str(tree.with_suffix(".tmp"))
    options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", "--rootdir", str(tree), "--basetemp", temporary]
    sys.exit(pytest.main([*options, *shlex.split(tests)]))


def untouched(root: Path, folder: Path, tests: str) -> tuple[str, Run]:
    """Runs tests without a change."""
    return tests, run_tests(copy_of(root, folder), tests)


def copy_of(root: Path, folder: Path) -> Path:
    """This process' copy of the project."""
    tree = folder / str(os.getpid())
    if not tree.exists():
        for name in (*FOLDERS, *FILES):
            source, target = root / name, tree / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.is_file():
                shutil.copyfile(source, target)
    return tree


def judge(root: Path, folder: Path, before: dict[str, Run], mutant: Mutant) -> Outcome:
    """Applies a mutant to a copy, runs its tests, and takes it back.

    Args:
        root: the project
        folder: of the copies
        before: how tests went without a change
        mutant: one that can be applied
    """
    path = copy_of(root, folder) / mutant.file
    source = path.read_text()
    try:
        path.write_text(mutant.applied(source))
        limit = LIMIT[0] + LIMIT[1] * before[mutant.tests].seconds
        after = run_tests(copy_of(root, folder), mutant.tests, limit)
    finally:
        path.write_text(source)
    seconds = f"({after.seconds:.1f} s)"
    if after.code == PASSED:
        return Outcome(mutant, bool(mutant.reason), f"allowed {seconds}" if mutant.reason else f"SURVIVED {seconds}")
    if after.code is not None and after.code not in FAILED:
        return Outcome(mutant, False, f"ERROR {seconds}, pytest ended with {after.code}\n{after.tail}\n")
    if mutant.reason:
        return Outcome(mutant, False, f"KILLED {seconds} in spite of its reason ({mutant.reason})")
    return Outcome(mutant, True, f"killed {seconds}" if after.code is not None else f"killed {seconds}, too long")


def run(mutants: Iterable[Mutant], root: Path, jobs: int = 1, show: Callable[[object], None] = print) -> list[Outcome]:
    """Tries all mutants.

    Args:
        mutants: rows of the list
        root: the project
        jobs: how many run at a time
        show: what to do with an outcome as soon as it is known

    Returns:
        an outcome a mutant, in the order in which they became known
    """
    outcomes: list[Outcome] = []
    ready: list[Mutant] = []

    def known(outcome: Outcome) -> None:
        outcomes.append(outcome)
        show(outcome)

    for mutant in mutants:
        try:
            mutant.applied((root / mutant.file).read_text())
            ready.append(mutant)
        except (OSError, ValueError) as error:
            known(Outcome(mutant, False, f"STALE ({error})"))
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(jobs, FORK) as pool:
        folder = Path(name)
        before = dict(_each(pool, partial(untouched, root, folder), dict.fromkeys(mutant.tests for mutant in ready)))
        green = []
        for mutant in ready:
            first = before[mutant.tests]
            if first.code == PASSED:
                green.append(mutant)
            else:
                text = f"ERROR, pytest {mutant.tests} ends with {first.code} without the change\n{first.tail}\n"
                known(Outcome(mutant, False, text))
        green.sort(key=lambda mutant: before[mutant.tests].seconds)
        for outcome in _each(pool, partial(judge, root, folder, before), green):
            known(outcome)
    return outcomes


def _each(pool: ProcessPoolExecutor, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """The results as they come; the first error, or Ctrl-C, ends it and starts nothing more."""
    futures = [pool.submit(function, item) for item in items]
    try:
        for future in as_completed(futures):
            yield future.result()
    finally:
        for future in futures:
            future.cancel()


def listed() -> list[Mutant]:
    """The rows of the list."""
    with LIST.open(encoding="utf-8") as lines:
        return [Mutant(**json.loads(line)) for line in lines]


def main() -> None:
    """Runs the chosen rows and exits with 1 where something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    parser.add_argument("--only", choices=["ci"], help="the rows with this mark")
    parser.add_argument("--match", default="", help="the rows that hold this text in any field")
    given = parser.parse_args()
    chosen = [m for m in listed() if (m.ci or not given.only) and given.match in json.dumps(vars(m))]
    begun = time.perf_counter()
    for name in WARM:
        importlib.import_module(name)
    print(f"{len(chosen)} mutants; first their tests without any", flush=True)
    outcomes = run(chosen, ROOT, given.jobs, show=lambda outcome: print(outcome, flush=True))
    bad = [outcome for outcome in outcomes if not outcome.good]
    for outcome in bad:
        print(f"\n{outcome}\n  tests: {outcome.mutant.tests}\n- {outcome.mutant.old}\n+ {outcome.mutant.new}")
    print(f"\n{len(outcomes)} mutants, {len(bad)} not as they should be, in {time.perf_counter() - begun:.0f} s")
    sys.exit(bool(bad) or not outcomes)


if __name__ == "__main__":
    main()
