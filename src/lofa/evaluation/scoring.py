"""Scores of one method, clip by clip: denoising loss, CLIP-T and video features, with noise that all methods share."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

from lofa.adapters import Adapter, stack_adapters
from lofa.backbones import Backbone
from lofa.data.samples import Sample
from lofa.diffusion import draw_noise
from lofa.evaluation.cases import Case, Protocol
from lofa.evaluation.methods import Method
from lofa.metrics import ClipEncoder, VideoFeatures, clip_scores
from lofa.stores import Location, locate
from lofa.zoo import Clips, read_clips

__all__ = ["Judges", "MethodScores", "RealClips", "Scorer"]


@dataclass(frozen=True, eq=False)
class Judges:
    """The networks that judge generated clips."""

    clip: ClipEncoder
    video: VideoFeatures


@dataclass(frozen=True, eq=False)
class RealClips:
    """What scores are compared with, m generated rows.

    Attributes:
        features: (m, D) of the real clips, sent through the backbone's own autoencoder as every generated clip is.
        clip_t: (m,) of the real clips with their captions: what CLIP-T can be hoped to reach.
        texts: (m, D') unit vectors of the captions.
        shown: clips of the report, by sample id, uint8 (T, H, W, 3).
    """

    features: Tensor
    clip_t: Tensor
    texts: Tensor
    shown: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class MethodScores:
    """Scores of one method: loss (n,), CLIP-T (m,), features (m, D), clips of the report by sample id."""

    loss: Tensor
    clip_t: Tensor
    features: Tensor
    shown: dict[str, Tensor]


class Scorer:
    """Scores methods on the same clips with the same noise.

    Args:
        set_dir: the prepared set.
        backbone: the one it was prepared for.
        cases: what is held out.
        judges: of generated clips.
        protocol: numbers of clips, levels and seeds.
        on_clips: called with the number of clips done after each batch.

    Attributes:
        scored: (case index, sample) of the n clips whose denoising loss is taken.
        generated: the same of the m clips that are generated.
    """

    def __init__(
        self,
        set_dir: Location,
        backbone: Backbone,
        cases: Sequence[Case],
        judges: Judges,
        protocol: Protocol,
        on_clips: Callable[[int], None] | None = None,
    ) -> None:
        self.set_dir, self.backbone, self.cases = locate(set_dir), backbone, list(cases)
        self.judges, self.protocol = judges, protocol
        self.on_clips = on_clips or (lambda clips: None)
        most = protocol.generated_per_prompt or None
        self.scored = [(place, sample) for place, case in enumerate(cases) for sample in case.score]
        self.generated = [(place, sample) for place, case in enumerate(cases) for sample in case.score[:most]]
        self.shown = {case.score[0].id for case in self.cases[: protocol.pictures]}

    def _batches(self, rows: Sequence[tuple[int, Sample]]) -> Iterator[Sequence[tuple[int, Sample]]]:
        for start in range(0, len(rows), self.protocol.batch):
            part = rows[start : start + self.protocol.batch]
            yield part
            self.on_clips(len(part))

    def _adapters(self, method: Method, rows: Sequence[tuple[int, Sample]]) -> list[Adapter] | None:
        if method.adapters is None:
            return None
        return [method.adapters[self.cases[place].id] for place, _ in rows]

    def real(self) -> RealClips:
        """Reference features, scores and pictures; once for all methods."""
        features, scores, texts = [], [], []
        shown: dict[str, Tensor] = {}
        for rows in self._batches(self.generated):
            clips = self.backbone.decode_latents(self._read(rows).latents.to(self.backbone.device)).cpu()
            features.append(self.judges.video(clips).cpu())
            texts.append(self.judges.clip.texts([sample.caption for _, sample in rows]))
            scores.append(clip_scores(self.judges.clip, clips, texts[-1]).cpu())
            shown |= self._pictures(rows, clips)
        return RealClips(torch.cat(features), torch.cat(scores), torch.cat(texts), shown)

    def method(self, method: Method, real: RealClips) -> MethodScores:
        """All scores of one method."""
        loss = torch.cat([self._losses(method, rows) for rows in self._batches(self.scored)])
        features, scores, start = [], [], 0
        shown: dict[str, Tensor] = {}
        for rows in self._batches(self.generated):
            clips = self._generate(method, rows)
            features.append(self.judges.video(clips).cpu())
            scores.append(clip_scores(self.judges.clip, clips, real.texts[start : start + len(rows)]).cpu())
            shown |= self._pictures(rows, clips)
            start += len(rows)
        return MethodScores(loss, torch.cat(scores), torch.cat(features), shown)

    def _read(self, rows: Sequence[tuple[int, Sample]]) -> Clips:
        return read_clips(self.set_dir, [sample for _, sample in rows], self.backbone)

    def _pictures(self, rows: Sequence[tuple[int, Sample]], clips: Tensor) -> dict[str, Tensor]:
        return {sample.id: clip for (_, sample), clip in zip(rows, clips, strict=True) if sample.id in self.shown}

    @torch.no_grad()
    def _losses(self, method: Method, rows: Sequence[tuple[int, Sample]]) -> Tensor:
        """Denoising loss (rows,), the mean over the clip's own fixed levels and noise."""
        clips, levels, device = self._read(rows), self.protocol.noise_levels, self.backbone.device
        ids = [sample.id for _, sample in rows]
        shape = clips.latents.shape[1:]
        draw = draw_noise(self.backbone.process, ids, shape, seed=self.protocol.seed, step=0, draws=levels)
        repeated = torch.arange(len(rows)).repeat_interleave(levels)
        adapters = self._adapters(method, rows)
        losses = self.backbone.denoising_loss(
            clips.latents[repeated].to(device),
            clips.condition[repeated].to(device),
            None if adapters is None else stack_adapters(adapters),
            noise_level=draw.level.to(device),
            noise=draw.noise.to(device),
        )
        return losses.view(-1, levels).mean(1).cpu()

    def _generate(self, method: Method, rows: Sequence[tuple[int, Sample]]) -> Tensor:
        """Clips (rows, T, H, W, 3), each from its own caption and a seed that depends on the sample alone."""
        first = rows[0][1]
        return self.backbone.generate(
            [sample.caption for _, sample in rows],
            self._adapters(method, rows),
            seed=[self._seed(sample) for _, sample in rows],
            steps=self.protocol.steps,
            guidance=self.protocol.guidance,
            frames=first.frames,
            height=first.size[0],
            width=first.size[1],
        ).cpu()

    def _seed(self, sample: Sample) -> int:
        text = f"{self.protocol.seed}/{sample.id}"
        return int.from_bytes(blake2b(text.encode(), digest_size=4).digest()) >> 1
