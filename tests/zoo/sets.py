"""A small random backbone's clips, as jobs and as a prepared set."""

from pathlib import Path

import torch

from lofa.backbones import Backbone
from lofa.conditions import Condition
from lofa.data import Encoded, Sample, write_encoded, write_samples
from lofa.files import digest
from lofa.zoo import Clips, LoraJob

SHAPE = (2, 4, 4)
"""T, H, W of the latents."""


def clips(backbone: Backbone, count: int, seed: int) -> Clips:
    """Random latents and conditions of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(count, backbone.latent_channels, *SHAPE, generator=generator)
    lengths = [3 + (seed + i) % 4 for i in range(count)]
    rows = [torch.randn(length, backbone.condition_width, generator=generator) for length in lengths]
    return Clips(latents, Condition.from_rows(rows))


def jobs(backbone: Backbone, count: int, held_out: int = 0) -> list[LoraJob]:
    """Jobs of 1, 2, 3, 1, ... clips."""
    return [
        LoraJob(
            id=f"job{i}",
            clips=clips(backbone, 1 + i % 3, i),
            seed=100 + i,
            held_out=clips(backbone, held_out, 50 + i) if held_out else None,
        )
        for i in range(count)
    ]


def sample(name: str, split: str, group: str, role: str = "adapt") -> Sample:
    """A sample whose latents are encoded."""
    return Sample(
        name, f"a figure {group}", split, group, role, "made", 5, (32, 32), 8.0, encoded=("condition.text", "latents")
    )


def write_set(folder: Path, backbone: Backbone, huge: str = "") -> Path:
    """3 train and 1 val group of 3 clips each, one more kept for scoring; sample `huge` has latents that overflow."""
    facts = {"backbone": backbone.name, "fingerprint": backbone.fingerprint}
    samples = []
    for g, split in enumerate(("train", "train", "train", "val")):
        for i in range(4):
            one = sample(f"g{g}-{i}", split, f"g{g}", "adapt" if i < 3 else "score")
            made = clips(backbone, 1, 10 * g + i)
            latents = made.latents[0].sign() * 3e38 if one.id == huge else made.latents[0]
            samples.append(
                write_encoded(
                    folder, one, Encoded(latents, {"text": made.condition.row(0)}), dtype=torch.float32, **facts
                )
            )
    write_samples(folder, samples)
    return folder


def digests(folder: Path) -> dict[str, str]:
    """Of the LoRAs of a set."""
    return {path.name: digest(path) for path in sorted((folder / "zoo").glob("*.safetensors"))}
