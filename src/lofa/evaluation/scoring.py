"""What each clip of one method scores: denoising losses and rows of metrics, with noise that all methods share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from lofa.adapters import Adapter, stack_adapters
from lofa.conditions import CONDITIONS
from lofa.data.samples import Sample, values_of
from lofa.diffusion import draw_noise
from lofa.errors import ConfigError
from lofa.evaluation.bootstrap import mean_over_units
from lofa.evaluation.cases import Case, Protocol
from lofa.evaluation.methods import Comparison, Method
from lofa.metrics import ClipMetric, SetMetric, find_metrics
from lofa.zoo import Clips, read_clips

__all__ = ["Metrics", "Scorer", "Scores", "check_needs"]

Metrics = Mapping[str, ClipMetric | SetMetric]
"""Key of `lofa.metrics.METRICS` -> the metric, as `build_metrics` makes them."""
Row = tuple[int, Sample]
_JOINTS = CONDITIONS["pose"]


def check_needs(names: Sequence[str], cases: Sequence[Case]) -> None:
    """Refuses metrics that need what the scored clips lack (ConfigError)."""
    for name, metric in find_metrics(names).items():
        for need in metric.needs:
            if need not in ("losses", "prompts", "real", "joints"):
                raise ConfigError(f"metric {name} needs {need} of every scored clip, which no prepared set has")
            lacking = next((one for case in cases for one in case.score if _JOINTS.key not in one.encoded), None)
            if need == "joints" and lacking is not None:
                raise ConfigError(f"metric {name} needs the joints of every scored clip, and {lacking.id!r} has none")


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of one method, or of the real clips.

    Attributes:
        losses: denoising losses (n,) of the scored clips; of the real clips none, (0,).
        rows: metric -> what it says of each of its clips, (m,) or (m, D).
        shown: clips of the report, by sample id, uint8 (T, H, W, 3).
    """

    losses: Tensor
    rows: dict[str, Tensor]
    shown: dict[str, Tensor]


class Scorer:
    """Scores methods on the same clips with the same noise.

    Args:
        comparison: the set, the backbone and the cases.
        metrics: of generated clips and of losses.
        protocol: numbers of clips, levels and seeds.
        on_clips: called with the number of clips done after each batch.

    Attributes:
        scored: (case index, sample) of the n clips whose denoising loss is taken.
        generated: the same of the m clips that are generated.
    """

    def __init__(
        self, comparison: Comparison, metrics: Metrics, protocol: Protocol, on_clips: Callable[[int], object]
    ) -> None:
        self.set_dir, self.backbone, self.cases = comparison.set_dir, comparison.backbone, comparison.cases
        self.metrics, self.protocol, self.on_clips = metrics, protocol, on_clips
        self.needs = {name: metric.needs for name, metric in find_metrics(metrics).items()}
        most = protocol.generated_per_prompt or None
        self.scored = [(place, sample) for place, case in enumerate(self.cases) for sample in case.score]
        self.generated = [(place, sample) for place, case in enumerate(self.cases) for sample in case.score[:most]]
        self.shown = {case.score[0].id for case in self.cases[: protocol.pictures]}

    def units(self, metric: str | None = None) -> Tensor:
        """Case index of each row of a metric; of each loss where none is named."""
        rows = self.scored if metric is None or "losses" in self.needs[metric] else self.generated
        return torch.tensor([place for place, _ in rows])

    def means(self, values: Tensor, metric: str | None = None) -> Tensor:
        """Mean of each case, in float64, of the rows (n,) of a clip metric; of losses where none is named."""
        return mean_over_units(values, self.units(metric), len(self.cases))

    def real(self) -> Scores:
        """The real clips, sent through the backbone's own autoencoder as every generated clip is; once for all methods.

        Their rows are what a set metric compares with, and what a clip metric can be hoped to reach.
        """
        return self._look(self._decoded, torch.zeros(0))

    def method(self, method: Method) -> Scores:
        """All scores of one method."""
        return self._look(lambda rows: self._generate(method, rows), self.losses(method))

    def losses(self, method: Method) -> Tensor:
        """Denoising loss (n,) of each scored clip."""
        return torch.cat([self._losses(method, rows) for rows in self._batches(self.scored)])

    def _look(self, make: Callable[[Sequence[Row]], Tensor], losses: Tensor) -> Scores:
        found: dict[str, list[Tensor]] = {name: [] for name, needs in self.needs.items() if "losses" not in needs}
        shown: dict[str, Tensor] = {}
        for rows in self._batches(self.generated):
            clips = make(rows)
            for name, parts in found.items():
                parts.append(self.metrics[name].rows(clips, **self._given(name, rows)).cpu())
            shown |= {sample.id: clip for (_, sample), clip in zip(rows, clips, strict=True) if sample.id in self.shown}
        of_losses = {name: self.metrics[name].rows(losses) for name in self.metrics if name not in found}
        seen = {name: torch.cat(parts) for name, parts in found.items()}
        return Scores(losses, {name: (seen | of_losses)[name] for name in self.metrics}, shown)

    def _given(self, name: str, rows: Sequence[Row]) -> dict[str, Any]:
        """What a metric takes beside the clips; of a set metric the real clips are rows of their own."""
        given: dict[str, Any] = {}
        for need in self.needs[name]:
            if need == "prompts":
                given[need] = [sample.caption for _, sample in rows]
            elif need == "joints":
                samples = [sample for _, sample in rows]
                poses = values_of(self.set_dir, samples, self.backbone, [_JOINTS.name])[_JOINTS.argument]
                shares = torch.stack([torch.as_tensor(pose) for pose in poses])
                sizes = shares.new_tensor([sample.size for sample in samples]).flip(-1)
                given[need] = rearrange(sizes, "b xy -> b 1 1 xy") * shares
            elif isinstance(self.metrics[name], ClipMetric):
                given[need] = self._decoded(rows)
        return given

    def _batches(self, rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
        for start in range(0, len(rows), self.protocol.batch):
            part = rows[start : start + self.protocol.batch]
            yield part
            self.on_clips(len(part))

    def _adapters(self, method: Method, rows: Sequence[Row]) -> list[Adapter] | None:
        return None if method.adapters is None else [method.adapters[sample.id] for _, sample in rows]

    def _read(self, rows: Sequence[Row]) -> Clips:
        return read_clips(self.set_dir, [sample for _, sample in rows], self.backbone)

    def _decoded(self, rows: Sequence[Row]) -> Tensor:
        return self.backbone.decode_latents(self._read(rows).latents.to(self.backbone.device)).cpu()

    @torch.no_grad()
    def _losses(self, method: Method, rows: Sequence[Row]) -> Tensor:
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
            rows=repeated,
        )
        return losses.view(-1, levels).mean(1).cpu()

    def _generate(self, method: Method, rows: Sequence[Row]) -> Tensor:
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
