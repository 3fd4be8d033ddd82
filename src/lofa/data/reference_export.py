"""A set of ours written as a zoo of the published code: `lofa convert in=data/<set> out=<folder> format=reference`."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from lofa.adapters import Adapter
from lofa.conditions import PROMPT
from lofa.data.samples import Sample, read_encoded, read_samples
from lofa.data.zoo_store import ZooStore
from lofa.errors import DataError
from lofa.files import atomic_write, local_copy, write_json
from lofa.interop.config import PROMPT_TOKENS
from lofa.interop.zoo import INDEX, stage1_path, write_sample, write_stage1
from lofa.paths import Location, locate
from lofa.targets import NEW_FOLDER, check_target

__all__ = ["export_reference"]


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
