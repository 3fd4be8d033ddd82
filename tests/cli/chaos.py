"""Kills prepare and train.py at random moments, goes on, and compares with commands that nobody killed.

    python -m tests.cli.chaos                    # 20 rounds of each command, a few minutes on two cores
    python -m tests.cli.chaos --rounds 3 --only train,ddp --seed 7

A small random backbone, 16 clips, 7 LoRAs. In a round a command is stopped at up to three moments, drawn with the seed,
with SIGKILL, SIGTERM or SIGINT, and its folder is sometimes moved or copied before it goes on; then it goes on
undisturbed. Afterwards
- prepare: every file of the set has the bytes it has in the undisturbed set, and no temporary is left;
- train, both stages: predictor and csv log have the bytes, and last.ckpt and best.ckpt the values, of the undisturbed
  run, and no temporary is left;
- ddp, fsdp: the same of two processes (every fourth round: each start costs seconds).
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_method

from lofa.cli import COMMANDS, main
from lofa.files import digest, read_torch
from tests.cli.conftest import BACKBONE, SIZES, SMALL_NET, make_models
from tests.helpers.killing import finish, kill_now_and_then, start

ROOT = Path(__file__).parents[2]
STEPS, EVERY = {"train": 13, "ddp": 60, "fsdp": 60}, 3
OUTPUT = "output.txt"
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
STRATEGIES = {
    "train": (),
    "ddp": ("strategy=ddp", "strategy.devices=2"),
    "fsdp": ("strategy=fsdp", "strategy.devices=2"),
}
TWO = ("ddp", "fsdp")

Outcome = dict[str, Any]


def in_child(arguments: Sequence[str], folder: Path) -> None:
    """The body of a process that runs a command in this one's stead, in a folder that gets its output."""
    write_to(folder / OUTPUT)
    with chdir(folder):
        sys.exit(main(list(arguments)))


def write_to(file: Path) -> None:
    """Sends what this process says to a file."""
    with file.open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)


def in_processes(arguments: Sequence[str], folder: Path) -> None:
    """The body of a process that becomes train.py itself, which starts the second."""
    os.chdir(folder)
    write_to(folder / OUTPUT)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    os.execve(sys.executable, [sys.executable, str(ROOT / "train.py"), *arguments[1:]], environment)


def run_whole(body: Callable[..., None], arguments: Sequence[str], folder: Path) -> float:
    """Runs a command in a process of its own to its end; seconds.

    Raises:
        AssertionError: it failed.
    """
    begun = time.perf_counter()
    code, said = finish(start(body, (arguments, folder))), (folder / OUTPUT).read_text()
    assert code == 0, f"exit code {code} of {' '.join(arguments)}: {said[-2000:]}"
    return time.perf_counter() - begun


def prepare_round(folder: Path, seconds: float, rng: random.Random) -> tuple[Outcome, int]:
    """What lies in a set whose preparation was killed now and then, and how often."""
    arguments = ["prepare", "source=world", BACKBONE, *SIZES, "prepare.batch=2", f"paths.data={folder}"]
    kills = kill_now_and_then(in_child, (arguments, folder.parent), seconds, rng)
    run_whole(in_child, arguments, folder.parent)
    return set_outcome(folder), kills


def set_outcome(folder: Path) -> Outcome:
    """Digests of all files of a set."""
    files = [path for path in (folder / "world").rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): digest(path) for path in sorted(files)}


def train_arguments(kind: str, stage: int, run: str) -> list[str]:
    """The command line of a run."""
    batch = 2 if kind in TWO else 4
    sizes = (
        f"stages.s{stage}.{key}" for key in (f"batch_size={batch}", f"max_steps={STEPS[kind]}", f"val_every={EVERY}")
    )
    warm = (f"stages.s{stage}.scheduler.warmup=2", "logger=csv", "trainer.log_every_n_steps=1")
    values = [f"stage={stage}", "data=world", BACKBONE, *SMALL_NET, *sizes, *warm, "trainer.enable_progress_bar=false"]
    values += ["stages.s2.clips=0", "trainer.accelerator=cpu", *STRATEGIES[kind], f"name={run}"]
    return ["train", *values, *(["response=runs/response"] if stage == 2 else [])]


def train_round(
    kind: str, stage: int, folder: Path, name: str, seconds: float, rng: random.Random
) -> tuple[Outcome, int]:
    """What a run left that was killed now and then, moved and copied, and how often."""
    body = in_processes if kind in TWO else in_child
    run = folder / "runs" / name

    def next_arguments() -> list[str]:
        """Begins where no run is, else resumes, from another place now and then."""
        nonlocal run
        if not (run / "config.yaml").exists():
            return train_arguments(kind, stage, run.name)
        if rng.random() < 0.5:
            moved = run.with_name(f"{run.name}x")
            (shutil.copytree if rng.random() < 0.5 else shutil.move)(run, moved)
            run = moved
        return ["train", f"resume={run}"]

    kills = kill_now_and_then(
        body,
        (next_arguments(), folder),
        seconds,
        rng,
        between=lambda: (next_arguments(), folder),
        signals=SIGNALS,
        earliest=seconds / 2 if kind in TWO else 0.0,  # two processes start for long
    )
    run_whole(body, next_arguments(), folder)
    return run_outcome(run), kills


def run_outcome(run: Path) -> Outcome:
    """Bytes of predictor and log, values of the checkpoints of a run.

    Raises:
        AssertionError: a temporary is left.
    """
    left = [path for path in run.rglob("*") if ".tmp" in path.name]
    assert not left, f"temporaries are left: {left}"
    files = [*(run / "predictor").glob("*.safetensors"), run / "csv" / "metrics.csv"]
    read = {file.name: digest(file) for file in files}
    return read | {name: read_torch(run / "checkpoints" / name) for name in ("last.ckpt", "best.ckpt")}


def same(one: Any, other: Any) -> bool:
    """Equal all through, tensors bit for bit; a list may have become a tuple, as FSDP's reading makes of the betas."""
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return isinstance(other, list | tuple) and len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)


def run(kind: str, rounds: int, seed: int, folder: Path) -> int:
    """Runs the rounds of "prepare", "train", "ddp" or "fsdp" and gives the number of kills.

    Raises:
        AssertionError: a round ended otherwise than the undisturbed command.
    """
    torch.set_num_threads(1)
    rng, kills = random.Random(f"{kind}/{seed}"), 0
    for command in ("prepare", "zoo", "train"):
        get_method(COMMANDS[command].task)  # its imports are made before the forks
    make_models(folder / "models")
    values = ["prepare", "source=world", BACKBONE, *SIZES, "prepare.batch=2"]
    seconds = run_whole(in_child, values, folder)
    if kind == "prepare":
        (folder / "calm").mkdir()
        (folder / "data" / "world").rename(folder / "calm" / "world")
        calm = set_outcome(folder / "calm")
        for number in range(rounds):
            found, hit = prepare_round(folder / f"round-{number}", seconds, rng)
            assert found == calm, f"prepare, round {number} differs: {found.items() ^ calm.items()}"
            kills += hit
        return kills
    zoo = ["zoo", BACKBONE, "zoo.steps=3", "zoo.warmup=1", "zoo.batch=4", "zoo.per_group=2"]
    run_whole(in_child, zoo, folder)
    run_whole(in_child, train_arguments("train", 1, "response"), folder)
    for stage in (1, 2)[:rounds]:
        body = in_processes if kind in TWO else in_child
        seconds = run_whole(body, train_arguments(kind, stage, f"calm{stage}"), folder)
        calm = run_outcome(folder / "runs" / f"calm{stage}")
        for number in range(stage - 1, rounds, 2):
            found, hit = train_round(kind, stage, folder, f"stage{stage}-{number}", seconds, rng)
            differ = [name for name in calm if not same(calm[name], found[name])]
            assert not differ, f"{kind}, stage {stage}, round {number} differs in {differ}"
            kills += hit
    return kills


def main_chaos(arguments: Sequence[str] | None = None) -> None:
    """Runs the rounds in temporary folders and says how it went."""
    kinds = ("prepare", *STRATEGIES)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(kinds), help="which of prepare, train, ddp, fsdp")
    given = parser.parse_args(arguments)
    for kind in given.only.split(","):
        if kind not in kinds:
            parser.error(f"--only: {kind!r} is none of {', '.join(kinds)}")
        rounds = -(-given.rounds // 4) if kind in TWO else given.rounds
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            kills = run(kind, rounds, given.seed, Path(folder))
        print(
            f"{kind}: {rounds} rounds, {kills} kills, all ended as nobody had touched them "
            f"({time.perf_counter() - begun:.0f} s)",
            flush=True,
        )


if __name__ == "__main__":
    main_chaos()
