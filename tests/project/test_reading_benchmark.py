"""What benchmarks/reading.py measures on big files holds on small ones: bytes read, and memory by the zoo's size."""

import sys
import tracemalloc
from pathlib import Path

import pytest

from benchmarks import reading
from lofa.data import LoFADataModule

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts in /proc")


def test_ten_of_240_layers_cost_a_tenth_of_the_bytes(tmp_path: Path) -> None:
    ratio = reading.slices(tmp_path, drawn=10, repeats=1)["ratio"]
    assert ratio["asked_mb"] >= 10


def test_20000_entries_stay_within_50_mb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = reading.wan_layers(1, 8)
    for name, entries in (("few", 20), ("many", 520)):
        reading.make_set(tmp_path / name, entries, layers)
    held = {}
    for name in ("few", "few", "many"):  # the first time loads what stays
        tracemalloc.start()
        data = LoFADataModule(tmp_path / name, layers, reading.Stamp(), layers_per_sample=3)
        data.setup()
        loader = data.train_dataloader()
        held[name] = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    assert loader is not None and data.batches_per_epoch == -(-494 // 16)
    assert (held["many"] - held["few"]) / 500 * 20_000 < 50e6
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)  # it would stay so for other tests
    figures = reading.use_set(tmp_path / "few", layers, batch_size=4)
    assert figures["after_epoch_mb"] > 0 and figures["ms_a_batch"] > 0
