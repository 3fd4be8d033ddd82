"""Data: from clips and captions to encoded samples, and from samples and their LoRAs to training batches."""

from typing import TYPE_CHECKING

from lofa.lazy import lazy

if TYPE_CHECKING:
    from lofa.data.dataset import ZooBatch
    from lofa.data.module import LoFADataModule
    from lofa.data.options import PrepareOptions
    from lofa.data.preparation import PrepareReport, prepare
    from lofa.data.reference import export_reference
    from lofa.data.samples import (
        Encoded,
        Sample,
        encoded_path,
        read_encoded,
        read_samples,
        write_encoded,
        write_samples,
    )  # fmt: skip
    from lofa.data.source import ClipShape
    from lofa.data.video import read_clip
    from lofa.data.zoo_store import ZooEntry, ZooStore
else:
    __getattr__, __dir__ = lazy(__name__, "options dataset module preparation reference samples source video zoo_store")

__all__ = [
    "ClipShape",
    "Encoded",
    "LoFADataModule",
    "PrepareOptions",
    "PrepareReport",
    "Sample",
    "ZooBatch",
    "ZooEntry",
    "ZooStore",
    "encoded_path",
    "export_reference",
    "prepare",
    "read_clip",
    "read_encoded",
    "read_samples",
    "write_encoded",
    "write_samples",
]
