"""Files: the same content gives the same bytes."""

from pathlib import Path

import torch

from lofa.files import read_metadata, read_tensors, save_tensors


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    tensors = {f"layer.{n}": torch.full((2, 3), float(n)) for n in range(5)}
    metadata = {f"key {n}": f'"quoted", tab\t, line\n, ü, \x01 {n}' for n in range(9)}
    written = []
    for turn in range(12):  # safetensors alone would have to draw one of 9! orders twelve times alike
        order = dict(sorted(metadata.items(), key=lambda item: hash((turn, item))))
        save_tensors(tmp_path / f"{turn}.safetensors", tensors, order)
        written.append((tmp_path / f"{turn}.safetensors").read_bytes())
    assert len(set(written)) == 1
    assert read_metadata(tmp_path / "0.safetensors") == metadata
    assert all(torch.equal(value, tensors[name]) for name, value in read_tensors(tmp_path / "0.safetensors").items())
