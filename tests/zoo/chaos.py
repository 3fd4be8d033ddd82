"""Kills the building of a zoo at random moments, goes on, and compares with a zoo that nobody killed.

    python -m tests.zoo.chaos                    # 20 rounds, about a minute on one core
    python -m tests.zoo.chaos --rounds 3 --seed 7

A small random backbone, 12 LoRAs in two shards built at the same time; the learning rate is so high that some LoRAs
are trained twice and some end in quarantine. In a round the first shard is killed with SIGKILL at up to three moments,
drawn with the seed, and then goes on undisturbed. Afterwards
- every file has the digest it has in the undisturbed zoo, and the same LoRAs are in quarantine,
- no temporary is left, every LoRA has one line in the index, and `verify_zoo` finds no problem,
- no group was trained again but the one that a kill interrupted.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from unittest import mock

import torch

from lofa.backbones import Backbone, load_backbone
from lofa.data import ZooStore
from lofa.files import append_jsonl, digest, read_jsonl, temporaries
from lofa.zoo import LoraJob, LoraResult, ZooOptions, build, build_zoo, train_loras, verify_zoo
from tests.helpers.killing import finish, kill_now_and_then, start
from tests.helpers.tiny_wan import make_tiny_wan
from tests.zoo.sets import write_set

OPTIONS = ZooOptions(
    rank=2, steps=3, batch=2, clips_per_step=1, probe_levels=2, per_group=0, siblings=2, lr=0.3, warmup=0
)
TRACE = "trained.jsonl"


@dataclass(frozen=True)
class Outcome:
    """What a zoo came to: digests of its files and the ids in quarantine; how often it was killed."""

    digests: dict[str, str]
    quarantined: frozenset[str]
    kills: int = 0


def build_shard(folder: Path, backbone: Backbone, shard: str) -> None:
    """Builds a shard, and notes in a file which groups it begins to train."""

    def traced(backbone: Backbone, jobs: Sequence[LoraJob], options: ZooOptions, *rest: object) -> list[LoraResult]:
        if options.lr == OPTIONS.lr:
            append_jsonl(folder / f"{shard[0]}-{TRACE}", [job.id for job in jobs])
        return train_loras(backbone, jobs, options, *rest)

    with mock.patch.object(build, "train_loras", traced):
        build_zoo(folder, backbone, replace(OPTIONS, shard=shard), progress=False)


def run_round(folder: Path, backbone: Backbone, seconds: float, rng: random.Random) -> Outcome:
    """Builds a zoo whose first shard is killed now and then.

    Args:
        folder: where its set is written.
        seconds: how long an undisturbed run takes; moments are drawn from as long.
    """
    write_set(folder, backbone)
    other = start(build_shard, (folder, backbone, "2/2"))  # the backbone is loaded once
    kills = kill_now_and_then(build_shard, (folder, backbone, "1/2"), seconds, rng)
    assert finish(other) == 0, "the shard that nobody killed failed"
    build_shard(folder, backbone, "1/2")
    check(folder, backbone)
    return replace(outcome(folder), kills=kills)


def check(folder: Path, backbone: Backbone) -> None:
    """What must hold of every zoo; AssertionError otherwise."""
    store = ZooStore(folder)
    assert not temporaries(store.folder), "temporaries are left"
    problems = verify_zoo(folder, backbone, OPTIONS).problems
    assert not problems, problems
    lines = [row["id"] for index in store.folder.glob("index-*.jsonl") for row in read_jsonl(index)]
    assert len(lines) == len(set(lines)) == 12, f"{len(lines)} index lines of {len(set(lines))} LoRAs"
    for trace in folder.glob(f"*-{TRACE}"):
        begun = [tuple(group) for group, _ in groupby(read_jsonl(trace))]
        assert len(begun) == len(set(begun)), f"a finished group was trained again: {begun}"


def outcome(folder: Path) -> Outcome:
    """What lies in a zoo."""
    store = ZooStore(folder)
    entries = store.entries().items()
    return Outcome(
        {path.name: digest(path) for path in sorted(store.folder.glob("*.safetensors"))},
        frozenset(name for name, entry in entries if entry.status == "quarantined"),
    )


def run(rounds: int, seed: int, folder: Path) -> list[Outcome]:
    """The outcomes of all rounds; AssertionError where one is not that of the undisturbed zoo."""
    torch.set_num_threads(1)
    rng = random.Random(seed)
    backbone = load_backbone(make_tiny_wan(folder / "backbone"))
    calm = write_set(folder / "calm", backbone)
    build_shard(calm, backbone, "2/2")
    begun = time.perf_counter()
    build_shard(calm, backbone, "1/2")
    seconds = time.perf_counter() - begun
    check(calm, backbone)
    expected = outcome(calm)
    found = []
    for number in range(rounds):
        found.append(run_round(folder / f"round-{number}", backbone, seconds, rng))
        assert replace(found[-1], kills=0) == expected, f"round {number} differs from the undisturbed zoo"
    return found


def main() -> None:
    """Runs the rounds in a temporary folder and says how it went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = run(given.rounds, given.seed, Path(folder))
    kills = sum(one.kills for one in found)
    print(f"{len(found)} rounds, {kills} kills: {len(found[0].digests)} LoRAs with the digests of the undisturbed zoo,")
    print(
        f"{len(found[0].quarantined)} in quarantine, no temporary left, nothing trained twice but what was interrupted"
    )


if __name__ == "__main__":
    main()
