"""Stage II: W + condition + stage-I tokens -> A, B, alpha, trained through the frozen backbone that carries them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from lofa.adapters import Adapter, AdapterBatch, LowRankBatch, unstack
from lofa.backbones import Backbone
from lofa.conditions import ConditionEncoder
from lofa.diffusion import NoiseDraw, draw_noise
from lofa.errors import DataError
from lofa.hypernets import AdapterNet, Prepared, Response, ResponseNet, WeightPrediction
from lofa.training.agreement import Agreement, agreement, maps_of
from lofa.training.batch import PairedBatch
from lofa.training.losses import Pairs, delta_loss, gradient_shares
from lofa.training.module import OptimizerFactory, PredictorModule, SchedulerFactory

__all__ = ["AdapterModule"]

VALIDATION_SEED = 20251208
VALIDATION_DRAWS = 4
"""Validation noise is the same in every run, so that runs compare: so many levels a sample, spread over the grid."""


class AdapterModule(PredictorModule):
    """Trains an `AdapterNet` on all layers.

    The stage-I network, its encoder and the backbone stay frozen, and outside checkpoints.

    Args:
        response_network: trained `ResponseNet`
        response_encoder: the condition encoder trained with it
        delta_scale: weight of the L1 term
        denoising_scale: weight of the denoising term
        alpha_in_delta: compare alpha B A with the truth, not, as published, B A alone
        noise_weighted: weight the noise levels as the backbone's process does, or all the same
        noise_draws: noise levels for each predicted adapter and step
        seed: of the noise; the other arguments as in `PredictorModule`
    """

    def __init__(
        self,
        network: AdapterNet,
        encoder: ConditionEncoder,
        response_network: ResponseNet,
        response_encoder: nn.Module,
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
        super().__init__(network, encoder, backbone, optimizer, scheduler, diagnostics_every)
        for frozen in (response_network, response_encoder):
            frozen.requires_grad_(False).eval()
        self._response = (response_network, response_encoder)  # a tuple hides them from Lightning and its checkpoints
        self._prepared: list[Prepared] | None = None  # what stage I makes of the weights alone; both are frozen
        self.backbone = backbone
        self._scales = {"delta": delta_scale, "denoising": denoising_scale}
        self._alpha_in_delta = alpha_in_delta
        self._noise_weighted = noise_weighted
        self._noise_draws = noise_draws
        self._seed = seed
        self._reference: dict[tuple[str, ...], dict[str, Tensor]] = {}

    def setup(self, stage: str) -> None:
        """Moves what is frozen to the device of the trainer."""
        device = self.trainer.strategy.root_device
        self.backbone.to(device)
        for module in self._response:
            module.to(device)

    def _read_response(self, batch: PairedBatch) -> Iterator[tuple[Prepared, Tensor, Tensor]]:
        """What stage I reads of the layers of each stack, and its condition."""
        network, encoder = self._response
        if self._prepared is None:
            stacks = [[self.layer_names[index] for index in indices] for indices in self.frozen.shapes.values()]
            self._prepared = [network.prepare(*self.frozen(layers)) for layers in stacks]
        read = encoder(batch.inputs)
        for stack in batch.stacks:
            layers = self.frozen.number(stack.layers)
            prepared = self._prepared[self.frozen.stack_of[int(layers[0])]]
            yield (prepared[self.frozen.place[layers]], *read)

    @torch.no_grad()
    def respond(self, batch: PairedBatch) -> list[Response]:
        """Stage I's response on each stack, without gradient."""
        return [self._response[0].respond(*read) for read in self._read_response(batch)]

    @torch.no_grad()
    def response_tokens(self, batch: PairedBatch) -> list[Tensor]:
        """Stage I's tokens (P, L, T, d) alone of each stack, without gradient."""
        return [self._response[0].finish(*read) for read in self._read_response(batch)]

    def forward(self, batch: PairedBatch, responses: list[Response] | None = None) -> list[WeightPrediction]:
        """A (P, L, r, in), B (P, L, out, r), alpha (P, L) of each prompt on the layers of each stack.

        `responses` saves computing stage I again.
        """
        tokens = self.response_tokens(batch) if responses is None else [response.tokens for response in responses]
        read = self.encoder(batch.inputs)
        return [
            self.network(*self.layers_of(stack, batch.ids), *read, own)
            for stack, own in zip(batch.stacks, tokens, strict=True)
        ]

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
        responses = self.respond(batch)
        tau = responses[0].tau
        prediction = self(batch, responses)
        draw = self._draw(batch, VALIDATION_SEED, 0, VALIDATION_DRAWS)
        key = tuple(batch.ids)
        if key not in self._reference:
            self._reference[key] = {
                "val/denoising_base": self._denoising(None, batch, draw).mean(),
                "val/denoising_lora": self._denoising(batch.stacks, batch, draw).mean(),
                **self._compare(responses, batch.stacks, batch, tau).named("val/response"),
            }
        with self.exact():
            values = {
                "val/delta": delta_loss(zip(prediction, batch.stacks, strict=True)).mean(),
                **self._reference[key],
            }
        values["val/denoising"] = self._denoising(prediction, batch, draw).mean()
        weighted = [scale * values[f"val/{name}"] for name, scale in self._scales.items()]
        values["val/loss"] = torch.stack(weighted).sum()
        values |= self._compare(prediction, batch.stacks, batch, tau).named("val/implied")
        values["val/response_implied_cosine"] = self._compare(responses, prediction, batch, tau).cosine
        self.log_dict(values, batch_size=len(batch.ids), sync_dist=True)

    def predict_adapters(self, batch: PairedBatch) -> list[Adapter]:
        """The P predicted adapters, detached."""
        with torch.no_grad():
            return unstack(self._layered(self(batch), batch))

    def true_adapters(self, batch: PairedBatch) -> list[Adapter]:
        """The P adapters of the zoo that the batch holds."""
        return unstack(self._layered(batch.stacks, batch))

    def _layered(self, pairs: Sequence[Pairs], batch: PairedBatch) -> AdapterBatch:
        return {
            layer: LowRankBatch(part.A[:, i].float(), part.B[:, i].float(), part.alpha[:, i].float())
            for part, stack in zip(pairs, batch.stacks, strict=True)
            for i, layer in enumerate(stack.layers)
        }

    def _draw(self, batch: PairedBatch, seed: int, step: int, draws: int) -> NoiseDraw:
        shape, process = _latents(batch).shape[1:], self.backbone.process
        return draw_noise(process, batch.ids, shape, seed=seed, step=step, draws=draws).to(self.device)

    def _denoising(self, pairs: Sequence[Pairs] | None, batch: PairedBatch, draw: NoiseDraw) -> Tensor:
        """Unweighted denoising loss (P * draws,) of the backbone carrying `pairs`."""
        repeats = len(draw.level) // len(batch.ids)
        rows = torch.arange(len(batch.ids)).repeat_interleave(repeats)
        adapters = None if pairs is None else self._layered(pairs, batch)
        return self.backbone.denoising_loss(
            _latents(batch)[rows],
            batch.prompt[rows],
            adapters=adapters,
            noise_level=draw.level,
            noise=draw.noise,
            rows=rows,
        )

    def _terms(self, prediction: Sequence[WeightPrediction], batch: PairedBatch, draw: NoiseDraw) -> dict[str, Tensor]:
        compared = prediction
        if not self._alpha_in_delta:
            compared = [replace(part, alpha=torch.ones_like(part.alpha)) for part in prediction]
        with self.exact():
            delta = delta_loss(zip(compared, batch.stacks, strict=True)).mean()
        denoising = self._denoising(prediction, batch, draw)
        if self._noise_weighted:
            denoising = draw.weight * denoising
        return {"delta": delta, "denoising": denoising.mean()}

    def _shares(self, prediction: Sequence[WeightPrediction], batch: PairedBatch, draw: NoiseDraw) -> dict[str, Tensor]:
        """Measured on copies that are cut off the network, so that its own backward pass stays as it is."""
        copies = [
            WeightPrediction(
                part.A.detach().float().requires_grad_(), part.B.detach().float().requires_grad_(), part.alpha.detach()
            )
            for part in prediction
        ]
        terms = self._terms(copies, batch, draw)
        leaves = [factor for part in copies for factor in (part.A, part.B)]
        shares = gradient_shares([self._scales[name] * term for name, term in terms.items()], leaves)
        return {f"train/gradient_share_{name}": share for name, share in zip(terms, shares, strict=True)}

    def _compare(
        self, predicted: Sequence[Response] | Sequence[Pairs], true: Sequence[Pairs], batch: PairedBatch, tau: float
    ) -> Agreement:
        """The maps of stage I, or those that adapters imply, against the maps that `true` implies."""
        said: Sequence[Response | Pairs] = predicted
        weights = [self.frozen(stack.layers)[0] for stack in batch.stacks]
        with self.exact(), torch.no_grad():
            return agreement(
                (maps_of(first, second, weight, tau), (len(batch.ids), *weight.shape))
                for first, second, weight in zip(said, true, weights, strict=True)
            )


def _latents(batch: PairedBatch) -> Tensor:
    if batch.latents is None:
        raise DataError(
            f"sample {batch.ids[0]}: no latents; stage II trains through the backbone and needs every clip's"
        )
    return batch.latents
