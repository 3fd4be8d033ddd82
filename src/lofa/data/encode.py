"""Encodes clips and captions with a backbone, a few at a time, and writes them; what fails is noted and left out."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lofa.backbones import Backbone
from lofa.conditions import PROMPT, Condition
from lofa.data.samples import Encoded, Sample, write_encoded
from lofa.data.source import Loaded, Skipped, Source
from lofa.errors import DataError, LofaError
from lofa.paths import Place

__all__ = ["Encoder"]


@dataclass
class Encoder:
    """Encodes and writes samples, a few at a time; what fails is added to `skipped`."""

    source: Source
    set_dir: Place
    backbone: Backbone
    dtype: torch.dtype
    stamps: dict[str, str]
    skipped: list[Skipped] = field(default_factory=list)

    def skip(self, sample: Sample, error: LofaError) -> None:
        self.skipped.append(Skipped.because(error, sample.source))

    def encode(self, samples: Sequence[Sample]) -> list[Sample]:
        """Samples as written."""
        texts, faults = self._captions(list(dict.fromkeys(sample.caption for sample in samples)))
        for sample in samples:
            if sample.caption in faults:
                self.skip(sample, faults[sample.caption])
        readable = [sample for sample in samples if sample.caption in texts]
        clips: list[tuple[Sample, Loaded]] = []
        for sample, loaded in zip(readable, self.source.load(readable) if readable else [], strict=True):
            if isinstance(loaded, DataError):
                self.skip(sample, loaded)
            else:
                clips.append((sample, loaded))
        if not clips:
            return []
        video = torch.stack([torch.from_numpy(loaded.frames) for _, loaded in clips])
        latents = self.backbone.encode_video(video.to(self.backbone.device)).cpu()
        written = []
        for (sample, loaded), latent in zip(clips, latents, strict=True):
            try:
                written.append(self._write(sample, loaded, latent, texts[sample.caption]))
            except DataError as error:
                self.skip(sample, error)
        return written

    def _write(self, sample: Sample, loaded: Loaded, latents: Tensor, prompt: Condition) -> Sample:
        shown = {kind: torch.from_numpy(row) for kind, row in loaded.conditions.items()}
        return write_encoded(
            self.set_dir,
            sample,
            Encoded(
                latents,
                {PROMPT.name: prompt.row(0), **shown},
                {name: value[0] for name, value in prompt.extras.items()},
            ),
            backbone=self.backbone.name,
            fingerprint=self.backbone.fingerprint,
            dtype=self.dtype,
            fps=loaded.fps,
            stamp=self.stamps.get(sample.id, ""),
        )

    def _captions(self, captions: list[str]) -> tuple[dict[str, Condition], dict[str, LofaError]]:
        """Each caption's condition, one row, and why the others have none; one by one where a batch is refused."""
        try:
            condition = self.backbone.encode_prompt(captions).to("cpu")
        except LofaError as error:
            if len(captions) == 1:
                return {}, {captions[0]: error}
            singles = [self._captions([caption]) for caption in captions]
            return {k: v for texts, _ in singles for k, v in texts.items()}, {
                k: v for _, f in singles for k, v in f.items()
            }
        return {caption: condition[i : i + 1] for i, caption in enumerate(captions)}, {}
