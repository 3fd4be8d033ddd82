"""Stage II: W + condition -> A, B, alpha, trained through the frozen backbone that carries them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lofa.adapters import LoraBatch, merge_batches
from lofa.backbones import Backbone
from lofa.diffusion import NoiseDraw, draw_noise
from lofa.errors import DataError
from lofa.hypernets import Hypernetwork
from lofa.training.losses import delta_loss, gradient_shares
from lofa.training.module import OptimizerFactory, PairedBatch, PredictorModule, SchedulerFactory, check_least

__all__ = ["AdapterModule"]

VALIDATION_SEED = 20251208
VALIDATION_DRAWS = 4
"""Validation noise is the same in every run, so that runs compare: so many levels a sample, spread over the grid."""


class AdapterModule(PredictorModule):
    """Trains the adapters of a hypernetwork on all layers.

    Its parts of earlier stages and the backbone stay frozen, and outside checkpoints.

    Args:
        delta_scale: weight of the L1 term
        denoising_scale: weight of the denoising term
        alpha_in_delta: compare alpha B A with the truth, not, as published, B A alone
        noise_weighted: weight the noise levels as the backbone's process does, or all the same
        noise_draws: noise levels for each predicted adapter and step
        seed: of the noise; the other arguments as in `PredictorModule`
    """

    def __init__(
        self,
        hypernet: Hypernetwork,
        backbone: Backbone,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None = None,
        diagnostics_every: int = 50,
        delta_scale: float = 1.0,
        denoising_scale: float = 10.0,
        alpha_in_delta: bool = True,
        noise_weighted: bool = True,
        noise_draws: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(hypernet, backbone, optimizer, scheduler, diagnostics_every)
        self._kept: Any = None  # what frozen parts make of the weights alone
        check_least(0, delta_scale=delta_scale, denoising_scale=denoising_scale)
        check_least(1, noise_draws=noise_draws)
        self._scales = {"delta": delta_scale, "denoising": denoising_scale}
        self._alpha_in_delta = alpha_in_delta
        self._noise_weighted = noise_weighted
        self._noise_draws = noise_draws
        self._seed = seed
        self._reference: dict[tuple[str, ...], dict[str, Tensor]] = {}

    def setup(self, stage: str) -> None:
        """Makes the denoiser, so that W is read from it and not from file beside it, on the device of the trainer."""
        _ = self.backbone.denoiser
        self.backbone.to(self.trainer.strategy.root_device)

    def prepare(self, batch: PairedBatch) -> Any:
        """What the hypernetwork makes of the weights of the batch's layers."""
        if self._kept is None:
            self._kept = self.hypernet.keep(self.layers(layer.name for layer in self.backbone.layers))
        return self.hypernet.prepare(self.layers_of(batch), self._kept)

    def forward(self, batch: PairedBatch) -> list[LoraBatch]:
        """Adapters of the P prompts on the layers of each stack."""
        return self.hypernet.predict(self.prepare(batch), batch.inputs)

    def training_step(self, batch: PairedBatch, batch_idx: int) -> Tensor:
        """Loss (); every `diagnostics_every` steps also each term's share of the gradient at the predicted A and B."""
        prediction = self(batch)
        draw = self._draw(batch, self._seed, self.global_step, self._noise_draws)
        terms = self._terms(prediction, batch, draw)
        weighted = {name: self._scales[name] * term for name, term in terms.items()}
        loss = torch.stack(list(weighted.values())).sum()
        self.log("train/loss", loss, prog_bar=True)
        self.log_dict({f"train/{name}": term for name, term in terms.items()})
        self.log("train/alpha", torch.cat([part.alpha for part in prediction], 1).mean())
        if self.diagnostics_due(batch_idx):
            self.log_now(self._shares(prediction, batch, draw) | self.condition_spread(batch.inputs))
        return loss

    def validation_step(self, batch: PairedBatch, batch_idx: int) -> None:
        """Logs the L1 distance, the implied response map's agreement, and denoising losses at fixed noise.

        `val/denoising` is LoFA's, `val/denoising_base` without adapter, `val/denoising_lora` with the true one, all
        unweighted; the last two are computed once, so the validation set must be the same each time.
        """
        prepared, inputs = self.prepare(batch), batch.inputs
        responses = self.hypernet.response(prepared, inputs) if self.hypernet.has_response else None
        prediction = self.hypernet.predict(prepared, inputs, responses)
        draw = self._draw(batch, VALIDATION_SEED, 0, VALIDATION_DRAWS)
        key = tuple(batch.ids)
        if key not in self._reference:
            self._reference[key] = {
                "val/denoising_base": self._denoising(None, batch, draw).mean(),
                "val/denoising_lora": self._denoising(batch.stacks, batch, draw).mean(),
            }
            if responses is not None:
                self._reference[key] |= self.agreement("val/response", responses, batch.stacks)
        values = {
            "val/delta": delta_loss(zip(prediction, batch.stacks, strict=True)).mean(),
            "val/denoising": self._denoising(prediction, batch, draw).mean(),
            **self._reference[key],
            **self.agreement("val/implied", prediction, batch.stacks),
        }
        values["val/loss"] = torch.stack([scale * values[f"val/{name}"] for name, scale in self._scales.items()]).sum()
        if responses is not None:
            cosine = "val/response_implied_cosine"
            values[cosine] = self.agreement("val/response_implied", responses, prediction)[cosine]
        self.log_dict(values, batch_size=len(batch.ids), sync_dist=True)

    def _draw(self, batch: PairedBatch, seed: int, step: int, draws: int) -> NoiseDraw:
        shape, process = _latents(batch).shape[1:], self.backbone.process
        return draw_noise(process, batch.ids, shape, seed=seed, step=step, draws=draws).to(self.device)

    def _denoising(self, pairs: Sequence[LoraBatch] | None, batch: PairedBatch, draw: NoiseDraw) -> Tensor:
        """Unweighted denoising loss (P * draws,) of the backbone carrying `pairs`."""
        repeats = len(draw.level) // len(batch.ids)
        rows = torch.arange(len(batch.ids)).repeat_interleave(repeats)
        return self.backbone.denoising_loss(
            _latents(batch)[rows],
            batch.prompt[rows],
            adapters=None if pairs is None else merge_batches(pairs),
            noise_level=draw.level,
            noise=draw.noise,
            rows=rows,
        )

    def _terms(self, prediction: Sequence[LoraBatch], batch: PairedBatch, draw: NoiseDraw) -> dict[str, Tensor]:
        compared = prediction
        if not self._alpha_in_delta:
            compared = [replace(part, alpha=torch.ones_like(part.alpha)) for part in prediction]
        denoising = self._denoising(prediction, batch, draw)
        if self._noise_weighted:
            denoising = draw.weight * denoising
        delta = delta_loss(zip(compared, batch.stacks, strict=True))
        return {"delta": delta.mean(), "denoising": denoising.mean()}

    def _shares(self, prediction: Sequence[LoraBatch], batch: PairedBatch, draw: NoiseDraw) -> dict[str, Tensor]:
        """Measured on copies that are cut off the network, so that its own backward pass stays as it is."""
        leaves = [factor.detach().requires_grad_() for part in prediction for factor in (part.A, part.B)]
        copies = [
            replace(part, A=A, B=B, alpha=part.alpha.detach())
            for part, A, B in zip(prediction, leaves[::2], leaves[1::2], strict=True)
        ]
        terms = self._terms(copies, batch, draw)
        shares = gradient_shares([self._scales[name] * term for name, term in terms.items()], leaves)
        return {f"train/gradient_share_{name}": share for name, share in zip(terms, shares, strict=True)}


def _latents(batch: PairedBatch) -> Tensor:
    if batch.latents is None:
        raise DataError(f"sample {batch.ids[0]}: no latents, which stage II needs of every clip")
    return batch.latents
