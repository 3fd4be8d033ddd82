"""The zoo of the published code, read as it lies (`lofa prepare source=reference:<folder>`), and a set written as one
(`lofa convert in=data/<set> out=<folder> format=reference`).

When it is read, nothing is encoded: prompt tokens and latents are taken as they are, the LoRAs go into the set's zoo.
The format (`lofa.interop.zoo`) has no captions; the name of the LoRA file stands in for one ("wave_left.pth": "wave
left"), unless an entry has `caption` or `prompt`. Nor has it groups and splits; `group` or `action`, and `split`, are
taken where an entry has them. `stage1/` is not needed: stage II here reads its own stage I.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from lofa.adapters import Adapter
from lofa.backbones import Backbone
from lofa.conditions import PROMPT
from lofa.data.options import PrepareOptions
from lofa.data.samples import SPLIT_NAMES, Encoded, Sample, read_encoded, read_samples
from lofa.data.source import ClipShape, Made, Plan, Skipped, Source, draw_split, slug
from lofa.data.zoo_store import ZooStore
from lofa.errors import DataError, LofaError
from lofa.files import atomic_write, local_copy, write_json
from lofa.interop import PREFIX
from lofa.interop.config import PROMPT_TOKENS
from lofa.interop.zoo import INDEX, listed, read_index, read_sample, stage1_path, write_sample, write_stage1
from lofa.paths import Location, locate
from lofa.targets import NEW_FOLDER, check_target

__all__ = ["ReferenceSource", "export_reference"]

_SPACE, _TIME = 8, 4  # pixels a latent cell, frames a latent frame (after the first) of Wan's autoencoder


class ReferenceSource(Source):
    """LoRAs and samples that `metadata.json` lists."""

    def __init__(self, folder: Path, options: PrepareOptions, shape: ClipShape) -> None:
        self.name, self.folder, self.options, self.shape = f"{PREFIX}{folder}", folder, options, shape
        self.files: dict[str, tuple[Path, Path]] = {}

    def plan(self) -> Plan:
        """One sample a LoRA, in the order of metadata.json; an entry whose sample can't be read is skipped."""
        samples: list[Sample] = []
        skipped, stamps = [], {}
        for number, entry in enumerate(read_index(self.folder), 1):
            where = f"{self.folder / INDEX}, entry {number}"
            try:
                sample, lora, file = self._sample(entry, where)
            except DataError as error:
                skipped.append(Skipped.because(error, where))
                continue
            if sample.id in self.files:
                skipped.append(Skipped(where, f"lists {lora} a second time"))
                continue
            self.files[sample.id] = (lora, file)
            samples.append(sample)
            stamps[sample.id] = " ".join(f"{one.stat().st_size} {one.stat().st_mtime_ns}" for one in (lora, file))
        return Plan(samples, skipped, stamps)

    def _sample(self, entry: Any, where: str) -> tuple[Sample, Path, Path]:
        names = [entry.get(key) if isinstance(entry, dict) else None for key in ("file_name", "input_emb")]
        if not all(isinstance(name, str) and name for name in names):
            raise DataError(f"{where}: needs file_name and input_emb")
        lora, file = (listed(self.folder, str(name), where) for name in names)
        if not lora.is_file():
            raise DataError(f"{lora}: no such file")
        _, frames, height, width = read_sample(file)[1].shape
        words = entry.get("caption") or entry.get("prompt") or lora.stem.replace("_", " ").replace("-", " ")
        group = str(entry.get("group") or entry.get("action") or lora.stem)
        size = (_SPACE * height, _SPACE * width)
        name = slug(str(names[0]))
        frames, fps = _TIME * (frames - 1) + 1, self.shape.fps
        split = entry.get("split") if entry.get("split") in SPLIT_NAMES else draw_split(group, self.options)
        sample = Sample(name, str(words), split, group, "adapt", str(file), frames, size, fps)
        return sample, lora, file

    def make(self, samples: Sequence[Sample], backbone: Backbone) -> Iterator[Made | LofaError]:
        """Reads the samples one after the other."""
        for sample in samples:
            try:
                yield _read(*self.files[sample.id], sample, backbone)
            except LofaError as error:
                yield error


def _read(lora: Path, file: Path, sample: Sample, backbone: Backbone) -> Made:
    adapter, values = Adapter.load(lora), read_sample(file)
    shapes = {layer.name: (layer.out_features, layer.in_features) for layer in backbone.layers}
    for name, pair in adapter.items():
        found = (pair.B.shape[0], pair.A.shape[1])
        if shapes.get(name) != found:
            wanted = f"is {shapes[name]} there" if name in shapes else "is not there"
            raise DataError(
                f"{lora}: made for another backbone than {backbone.name!r}: layer {name} of {found} {wanted}"
            )
    text, latents = (value.float() for value in values)
    sizes, own = (latents.shape[0], text.shape[1]), (backbone.latent_channels, backbone.condition_width)
    if sizes != own:
        raise DataError(
            f"{file}: {sizes[0]} latent channels and text tokens {sizes[1]} wide, but {backbone.name!r} has "
            f"{own[0]} and {own[1]}"
        )
    real = text.any(1).nonzero()
    if not len(real):
        raise DataError(f"{file}: every row of prompt_emb is zero")
    return Made(Encoded(latents, {PROMPT.name: text[: int(real.max()) + 1]}), sample.fps, adapter)


def export_reference(
    set_dir: Location,
    folder: str | Path,
    stage1: Callable[[Sample], Mapping[str, Tensor]] | None = None,
) -> list[Sample]:
    """Writes every sample that has a LoRA; `metadata.json` names them with caption, group and split.

    The folder appears whole or not at all.

    Args:
        set_dir: the prepared set, with its zoo.
        folder: what is written, `loras/`, `samples/` and `metadata.json`.
        stage1: sample -> stage I's tokens (T, d) of its prompt by layer name, for `stage1/`; None: not written.

    Returns:
        The samples written.

    Raises:
        DataError: no set, an empty zoo, a sample without latents, or a layer that is none of Wan's.
        TargetError, WriteError: something stands there; the disk is full ...
    """
    set_dir, folder = locate(set_dir), Path(folder)
    check_target(folder, False, NEW_FOLDER)
    samples, store = read_samples(set_dir), ZooStore(set_dir)
    ready = set(store.ready())
    chosen = [sample for sample in samples if sample.id in ready]
    if not chosen:
        raise DataError(f"{set_dir}: no LoRA in its zoo; make them with: lofa zoo data={set_dir}")
    entries = []
    with atomic_write(folder, NEW_FOLDER) as temporary:
        for sample in chosen:
            encoded = read_encoded(set_dir, sample)
            if encoded.latents is None:
                raise DataError(f"{set_dir}: sample {sample.id} has no latents, which the published format needs")
            lora_file, sample_file = f"loras/{sample.id}.pth", f"samples/{sample.id}.pth"
            with local_copy(store.path(sample.id)) as lora:
                Adapter.load(lora).save(temporary / lora_file, format="reference")
            text = encoded.conditions[PROMPT.name]
            padding = (0, 0, 0, max(0, PROMPT_TOKENS - len(text)))
            write_sample(temporary / sample_file, F.pad(text, padding), encoded.latents)
            if stage1 is not None:
                write_stage1(stage1_path(temporary, sample_file), stage1(sample))
            entries.append(
                {
                    "file_name": lora_file,
                    "input_emb": sample_file,
                    "caption": sample.caption,
                    "group": sample.group,
                    "split": sample.split,
                }
            )
        write_json(temporary / INDEX, entries)
    return chosen
