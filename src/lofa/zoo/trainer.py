"""Many LoRAs trained at once on one frozen backbone.

A step puts N x c clips through the backbone, grouped by LoRA, with the N LoRAs in its slots; a LoRA's loss is the mean
of its own c denoising losses, and the sum of the N is differentiated, so each LoRA's gradient is exactly its own. AdamW
works on each value alone, so one optimiser over all of them equals N optimisers. The c clips may go through in parts
(`LoraOptions.accumulate`): gradients add up to that of the whole step.
"""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lofa.backbones import Backbone, LayerSpec
from lofa.errors import ConfigError
from lofa.zoo.jobs import LoraJob, LoraResult
from lofa.zoo.memory import free_memory, peak_memory
from lofa.zoo.options import LoraOptions
from lofa.zoo.pool import ClipPool, Probe
from lofa.zoo.stacked import StackedLoras
from lofa.zoo.stream import DrawStream

__all__ = ["Batch", "adapted_layers", "loras_at_once", "train_loras"]

_MOST_AT_ONCE = 32  # where memory would allow more: the speed has levelled off, and an interrupted run loses a batch


def adapted_layers(backbone: Backbone, options: LoraOptions) -> tuple[LayerSpec, ...]:
    """The layers of the kinds that `options` names, all where it names none.

    Raises:
        ConfigError: a kind that the backbone does not have.
    """
    known = dict.fromkeys(layer.kind for layer in backbone.layers)
    for kind in options.kinds:
        if kind not in known:
            raise ConfigError(f"zoo option kinds: {backbone.name} has no layers {kind!r}; it has {', '.join(known)}")
    return tuple(layer for layer in backbone.layers if not options.kinds or layer.kind in options.kinds)


def loras_at_once(backbone: Backbone, job: LoraJob, options: LoraOptions) -> int:
    """How many LoRAs like `job` are trained at once: `options.batch`, or where it is None as many as fit in memory.

    Counts the tensors of a step of one LoRA and of two, which tells what every further one takes.
    """
    if options.batch is not None:
        return options.batch
    layers = adapted_layers(backbone, options)

    def step(loras: int) -> None:
        batch = Batch(backbone, layers, [job] * loras, options)
        batch.step(0, batch.pool)

    budget = free_memory(backbone.device) if options.memory is None else int(options.memory * 2**30)
    one = peak_memory(lambda: step(1))
    if 2 * one > budget:
        return 1
    further = max(1, peak_memory(lambda: step(2)) - one)
    return min(_MOST_AT_ONCE, 1 + (budget - one) // further)


def train_loras(
    backbone: Backbone,
    jobs: Sequence[LoraJob],
    options: LoraOptions,
    on_step: Callable[[int, int], None] | None = None,
) -> list[LoraResult]:
    """Trains one LoRA a job, as many at a time as `loras_at_once` says; results in the order of the jobs.

    Args:
        backbone: frozen; left as it was.
        jobs: what to train on; jobs of one latent shape, all or none with held-out clips, share batches.
        options: the same for all.
        on_step: called after each step with (LoRAs in the batch, steps done in the batch).

    Returns:
        one result a job; a LoRA that became NaN or infinite has `adapter` None and `failure` set.
    """
    layers = adapted_layers(backbone, options)
    alike: dict[tuple[object, ...], list[int]] = {}
    for index, job in enumerate(jobs):
        alike.setdefault((job.clips.latents.shape[1:], job.held_out is None), []).append(index)
    results: dict[int, LoraResult] = {}
    for indices in alike.values():
        size = 1 if len(indices) == 1 else loras_at_once(backbone, jobs[indices[0]], options)
        for start in range(0, len(indices), size):
            together = indices[start : start + size]
            batch = Batch(backbone, layers, [jobs[index] for index in together], options)
            results.update(zip(together, batch.run(on_step), strict=True))
    return [results[index] for index in range(len(jobs))]


class _Best:
    """The best of N LoRAs by the loss of their held-out clips.

    Attributes:
        flat: their values (N, P), zero where no loss was finite.
        step, loss: when that was and its loss, (N,).
        stale: measurements since then, (N,).
    """

    def __init__(self, flat: Tensor) -> None:
        self.flat = torch.zeros_like(flat)
        self.loss = torch.full_like(flat[:, 0], torch.inf)
        self.step = torch.zeros(len(flat), dtype=torch.long, device=flat.device)
        self.stale = self.step.clone()

    def update(self, alive: Tensor, flat: Tensor, loss: Tensor, step: int) -> None:
        """Takes up a measurement of the LoRAs with the indices `alive` (M,): their values (M, P) and losses (M,)."""
        better = loss < self.loss[alive]  # NaN is never better
        self.stale[alive] = torch.where(better, 0, self.stale[alive] + 1)
        chosen = alive[better]
        self.flat[chosen], self.loss[chosen], self.step[chosen] = flat[better], loss[better], step


class Batch:
    """One batch of N jobs, from the first to the last step."""

    def __init__(
        self, backbone: Backbone, layers: Sequence[LayerSpec], jobs: Sequence[LoraJob], options: LoraOptions
    ) -> None:
        self.backbone, self.jobs, self.options = backbone, jobs, options
        device = backbone.device
        self.pool = ClipPool.of([job.clips for job in jobs], device)
        held = [job.held_out for job in jobs if job.held_out is not None] if options.validate_every else []
        self.held = ClipPool.of(held, device) if held else None
        seeds = [options.seed + job.seed for job in jobs]
        init = [options.seed] * len(jobs) if options.shared_init else seeds
        starts = [job.start for job in jobs]
        self.loras = StackedLoras(layers, init, options.rank, options.alpha, device, starts)
        self.start = self.loras.view(self.loras.flat.detach().clone()) if any(starts) else None
        self.optimizer = torch.optim.AdamW([self.loras.flat], weight_decay=options.weight_decay, fused=True)
        self.probe = Probe(backbone, options.probe_levels, -(-options.clips_per_step // options.accumulate))
        counts, shape = [len(job.clips) for job in jobs], jobs[0].clips.latents.shape[1:]
        self.draws = DrawStream(seeds, counts, options.clips_per_step, shape, backbone.process, device)

    def step(self, number: int, pool: ClipPool) -> Tensor:
        """One optimiser step; gives the losses (M,) before it."""
        losses = self.backward(pool)
        self.loras.clip_gradients(self.options.clip_norm)
        self.optimizer.param_groups[0]["lr"] = self.options.learning_rate(number)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return losses

    def backward(self, pool: ClipPool) -> Tensor:
        """Draws a step's clips and gives the LoRAs their gradient, part by part; gives the losses (M,)."""
        draw = self.draws.next()
        parts = (whole.tensor_split(self.options.accumulate, dim=1) for whole in (draw.clips, draw.levels, draw.noise))
        total = torch.zeros_like(draw.levels[:, 0])
        for clips, levels, noise in zip(*parts, strict=True):
            share = clips.shape[1] / draw.clips.shape[1]
            losses = pool.losses(self.backbone, clips, levels, noise, self.loras.adapters()).mean(1) * share
            losses.sum().backward()
            total += losses.detach()
        return total

    def run(self, on_step: Callable[[int, int], None] | None) -> list[LoraResult]:
        """Trains the batch and measures it before and after."""
        begun = time.perf_counter()
        options, loras, pool, held = self.options, self.loras, self.pool, self.held
        first = self.probe(pool, None)
        best = None if held is None else _Best(loras.flat.detach())
        alive = torch.arange(len(self.jobs), device=first.device)
        curve = first.new_full((options.steps, len(alive)), torch.nan)
        checks: list[tuple[int, Tensor]] = [] if held is None else [(0, self.probe(held, self.start))]
        for number in range(1, options.steps + 1):
            curve[number - 1, alive] = self.step(number - 1, pool)
            if on_step is not None:
                on_step(len(self.jobs), number)
            if held is None or best is None or (number % options.validate_every and number < options.steps):
                continue
            loss = self.probe(held, loras.adapters())
            best.update(alive, loras.flat.detach(), loss, number)
            checks.append((number, torch.full_like(first, torch.nan).index_copy(0, alive, loss)))
            going = best.stale[alive] < (options.patience or options.steps + 1)
            if not going.all():
                alive, pool, held = alive[going], pool.keep(going), held.keep(going)
                if not len(alive):
                    break
                loras.keep(going, self.optimizer)
                self.draws.keep(going)
        flat = loras.flat.detach() if best is None else best.flat
        steps = [options.steps] * len(self.jobs) if best is None else best.step.tolist()
        final = self.probe(self.pool, loras.view(flat))
        whole = flat.isfinite().all(1) & final.isfinite() & (True if best is None else best.loss.isfinite())
        seconds = (time.perf_counter() - begun) / len(self.jobs)
        held_losses = [(step, losses.tolist()) for step, losses in checks]
        results = []
        for n, (job, adapter) in enumerate(zip(self.jobs, loras.unstack(flat), strict=True)):
            losses = [loss for loss in curve[:, n].tolist() if loss == loss]
            history = [(step, row[n]) for step, row in held_losses if row[n] == row[n]]
            results.append(
                LoraResult(
                    id=job.id,
                    adapter=adapter if whole[n] else None,
                    first_loss=first[n].item(),
                    final_loss=final[n].item(),
                    held_first_loss=history[0][1] if history else None,
                    held_final_loss=dict(history)[steps[n]] if history and whole[n] else None,
                    losses=losses,
                    held_losses=history,
                    steps=steps[n],
                    lr=options.lr,
                    seconds=seconds,
                    failure=None if whole[n] else _reason(curve[:, n].tolist()),
                )
            )
        return results


def _reason(losses: list[float]) -> str:
    bad = next((step for step, loss in enumerate(losses, 1) if not abs(loss) < float("inf")), len(losses))
    return f"the loss or the weights were not finite at step {bad}; lower lr or set clip_norm"
