"""Reading a zoo: start-up and memory of the data module by the zoo's size, and ten layers of a LoRA against all of it.

    python benchmarks/reading.py                          # 200 and 20,000 entries; two minutes, 0.2 GB of disk
    python benchmarks/reading.py --entries 200,100000 --out runs/reading.json

The entries of a set are hard links to one small LoRA (32 layers of 96 x 96, rank 4) and one caption's tokens. Each size
is measured in a process of its own: seconds of constructing and setting up the data module, and resident memory before,
after, and after an epoch of stage I's batches. Goals: 5 s at 20,000 entries, and within 50 MB of what 200 take.

Ten of 240 layers (1536 x 1536, rank 32, bfloat16, 47 MB) are read as stage I reads them, checked and in float32, and
compared with unpickling the published .pth of the same LoRA. Bytes are those of /proc/self/io: `rchar` asked for by the
process, `read_bytes` fetched from the disk, read-ahead included, after the file was dropped from the page cache
("cold"). Nothing is mapped, so `rchar` misses nothing. Goals: ten times fewer bytes, a fifth of the time. Linux only.
"""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from lofa.adapters import Adapter, LowRank
from lofa.backbones import LayerSpec
from lofa.data import Encoded, LoFADataModule, Sample, ZooEntry, ZooStore, encoded_path, write_encoded, write_samples
from lofa.files import read_torch, write_json

FINGERPRINT = "benchmark"


class Stamp:
    """What the files of this benchmark are made for."""

    fingerprint = FINGERPRINT

    def accepts(self, fingerprint: str | None) -> bool:
        """Whether a file is of this benchmark."""
        return fingerprint == FINGERPRINT


KINDS = [f"{attention}.{part}" for attention in ("attn1", "attn2") for part in ("to_q", "to_k", "to_v", "to_out.0")]


def wan_layers(blocks: int, side: int) -> list[LayerSpec]:
    """The attention layers of a Wan transformer."""
    return [
        LayerSpec(f"transformer.blocks.{depth}.{kind}", depth, kind, side, side)
        for depth in range(blocks)
        for kind in KINDS
    ]


def random_lora(layers: Sequence[LayerSpec], rank: int) -> Adapter:
    """A LoRA for each layer."""
    one = torch.ones(())
    return Adapter(
        {
            layer.name: LowRank(torch.randn(rank, layer.in_features), torch.randn(layer.out_features, rank), one)
            for layer in layers
        }
    )


def make_set(set_dir: Path, entries: int, layers: Sequence[LayerSpec]) -> None:
    """A set of `entries` samples, each with a LoRA; four samples a group."""
    names = [f"wave-with-the-left-hand-{i:06d}" for i in range(entries)]
    samples = [
        Sample(
            name,
            f"a tall figure in a red coat waves with the left hand, slowly and far up, in front of wall {i}",
            "train" if i % 20 else "val",
            f"action-{i // 4}",
            "adapt",
            f"videos/{name}.mp4",
            17,
            (128, 128),
            8.0,
            seed=i,
            encoded=("condition.text",),
        )
        for i, name in enumerate(names)
    ]
    facts: dict[str, Any] = {"backbone": "benchmark", "fingerprint": FINGERPRINT, "dtype": torch.float16}
    write_samples(set_dir, samples)
    write_encoded(set_dir, samples[0], Encoded(None, {"text": torch.randn(40, 64)}), **facts)
    store = ZooStore(set_dir)
    header = {"backbone": "benchmark", "backbone_fingerprint": FINGERPRINT}
    store.add(random_lora(layers, 4), ZooEntry(names[0], "ok", 0.2, 0.1, 200, 4.0), "1-of-1", header)
    first = store.entries()[names[0]]
    with (set_dir / "zoo" / "index-1-of-1.jsonl").open("a", encoding="utf-8") as index:
        for name in names[1:]:
            os.link(set_dir / "zoo" / f"{names[0]}.safetensors", set_dir / "zoo" / f"{name}.safetensors")
            os.link(str(encoded_path(set_dir, names[0])), str(encoded_path(set_dir, name)))
            index.write(json.dumps({**asdict(first), "id": name}) + "\n")


def resident() -> float:
    """Resident memory of this process, MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def use_set(set_dir: Path, layers: Sequence[LayerSpec], batch_size: int) -> dict[str, float]:
    """Seconds and resident MB of the data module on one set, in this process."""
    torch.set_num_threads(1)
    before, begun, used = resident(), time.perf_counter(), time.process_time()
    data = LoFADataModule(set_dir, layers, Stamp(), batch_size=batch_size)
    data.setup()
    loader = data.train_dataloader()
    seconds, used, ready = time.perf_counter() - begun, time.process_time() - used, resident()
    begun = time.perf_counter()
    batches = sum(1 for _ in islice(loader, data.batches_per_epoch))
    epoch = time.perf_counter() - begun
    return {
        "start_up_s": seconds,
        "start_up_cpu_s": used,
        "before_mb": before,
        "set_up_mb": ready,
        "after_epoch_mb": resident(),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
        "ms_a_batch": 1e3 * epoch / batches,
    }


def scale(folder: Path, sizes: Sequence[int], batch_size: int) -> dict[str, dict[str, float]]:
    """`use_set` on sets of several sizes, each in a fresh process."""
    layers, found = wan_layers(4, 96), {}
    for entries in sizes:
        make_set(folder / str(entries), entries, layers)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            found[str(entries)] = pool.submit(use_set, folder / str(entries), layers, batch_size).result()
    return found


def counters() -> dict[str, int]:
    """What this process has read so far, bytes."""
    lines = (line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return {name: int(value) for name, value in lines if name in ("rchar", "read_bytes")}


def drop(file: Path) -> None:
    """Takes a file out of the page cache."""
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
        os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cost(read: Callable[[], object], file: Path, repeats: int) -> dict[str, float]:
    """Medians of seconds, cold and warm, and of bytes (MB), the disk's from the cold ones."""
    rows: dict[str, list[float]] = {}
    for cold in [True, False] * repeats:
        if cold:
            drop(file)
        before, begun = counters(), time.perf_counter()
        read()
        seconds = time.perf_counter() - begun
        after = counters()
        name = "cold" if cold else "warm"
        rows.setdefault(f"{name}_ms", []).append(1e3 * seconds)
        rows.setdefault("asked_mb", []).append((after["rchar"] - before["rchar"]) / 1e6)
        if cold:
            rows.setdefault("disk_mb", []).append((after["read_bytes"] - before["read_bytes"]) / 1e6)
    return {name: statistics.median(values) for name, values in rows.items()}


def slices(folder: Path, drawn: int, repeats: int) -> dict[str, Any]:
    """What reading `drawn` of 240 layers costs against unpickling them all."""
    layers, store = wan_layers(30, 1536), ZooStore(folder)
    whole, header = random_lora(layers, 32), {"backbone": "benchmark", "backbone_fingerprint": FINGERPRINT}
    store.add(whole, ZooEntry("lora", "ok"), "1-of-1", header, dtype=torch.bfloat16)
    published = folder / "lora.pth"
    whole.save(published, format="reference", dtype=torch.bfloat16)
    order = torch.randperm(len(layers), generator=torch.Generator().manual_seed(0)).tolist()
    names = [layers[index].name for index in order[:drawn]]
    found = {
        "unpickled": cost(lambda: read_torch(published), published, repeats),
        "layers": cost(lambda: store.read("lora", names, Stamp()), folder / "zoo" / "lora.safetensors", repeats),
    }
    return {**found, "ratio": {key: found["unpickled"][key] / value for key, value in found["layers"].items()}}


def main() -> None:
    """Runs both parts and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", default="200,20000", help="sizes of the zoo, with commas")
    parser.add_argument("--batch-size", type=int, default=16, help="prompts of a batch")
    parser.add_argument("--layers", type=int, default=10, help="layers read of 240")
    parser.add_argument("--repeats", type=int, default=15, help="readings of each file, cold and warm")
    parser.add_argument("--out", type=Path, help="json file for the figures")
    given = parser.parse_args()
    if sys.platform != "linux":
        print("this counts bytes and memory in /proc, which Linux alone has; nothing measured")
        return

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        figures = {
            "settings": {key: str(value) for key, value in vars(given).items()},
            "scale": scale(Path(folder), [int(size) for size in given.entries.split(",")], given.batch_size),
            "slices": slices(Path(folder) / "slices", given.layers, given.repeats),
        }
    _print(figures)
    if given.out:
        write_json(given.out, figures)


def _print(figures: dict[str, Any]) -> None:
    for part, title in (("scale", "the data module, by entries of the zoo"), ("slices", "one LoRA of 240 layers")):
        rows = figures[part]
        columns = next(iter(rows.values()))
        table = Table("", *(name.replace("_", " ") for name in columns), title=title)
        for name, row in rows.items():
            table.add_row(name, *(f"{row[column]:.3g}" for column in columns))
        Console().print(table)


if __name__ == "__main__":
    main()
