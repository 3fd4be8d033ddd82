"""The losses and measures that the modules log, against the formulas taken prompt by prompt on plain matrices."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from lightning import Trainer
from lightning.pytorch.loggers import Logger
from torch import Tensor
from torch.utils.data import DataLoader

from lofa.diffusion import draw_noise
from lofa.training import AdapterModule, PredictorModule
from lofa.training.adapter_module import VALIDATION_DRAWS, VALIDATION_SEED
from tests.training.pieces import LATENT, ToyBackbone, ToyBatch, adapter_module, batch_of, loader, response_module

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
STILL = {"optimizer": partial(torch.optim.SGD, lr=0.0), "scheduler": None}
"""Nothing is learned: every step sees the parameters of the first."""


class Lines(Logger):
    """Keeps what is logged: (step, values)."""

    name, version = "lines", 0

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, dict[str, float]]] = []

    def log_hyperparams(self, params: object, *args: object, **kwargs: object) -> None:
        """Nothing of them is needed."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.seen.append((step or 0, dict(metrics)))

    def of(self, name: str) -> list[float]:
        return [values[name] for _, values in self.seen if name in values]


def fit(module: PredictorModule, train: object, val: object = None, **options: object) -> Lines:
    lines = Lines()
    options = {"max_epochs": 1, "log_every_n_steps": 1} | options
    Trainer(logger=lines, enable_checkpointing=False, **QUIET, **options).fit(module, train, val)
    return lines


def one(batch: ToyBatch) -> DataLoader[ToyBatch]:
    return DataLoader([batch], batch_size=None)


def changes(parts: list, backbone: ToyBackbone, batch: ToyBatch, row: int) -> dict[str, Tensor]:
    """Layer -> alpha B A (out, in) of one prompt."""
    return {
        layer: part.alpha[row, i] * part.B[row, i] @ part.A[row, i]
        for part, stack in zip(parts, batch.stacks, strict=True)
        for i, layer in enumerate(stack.layers)
    }


def denoising(
    change: dict[str, Tensor], batch: ToyBatch, row: int, draws: int, seed: int, step: int
) -> tuple[Tensor, Tensor]:
    """Losses (draws,) of one sample, one draw at a time through a backbone with the change in its weights; w(t)."""
    backbone = ToyBackbone(mixed=True)
    for layer, linear in zip(backbone.layers, backbone.net, strict=True):
        linear.weight += change.get(layer.name, 0)
    draw = draw_noise(backbone.process, [batch.ids[row]], LATENT, seed=seed, step=step, draws=draws)
    alone = batch.prompt[torch.tensor([row])]
    latents = batch.latents[row : row + 1]
    losses = [
        backbone.denoising_loss(latents, alone, None, draw.level[k : k + 1], draw.noise[k : k + 1])
        for k in range(draws)
    ]
    return torch.cat(losses), draw.weight


MIXED = ToyBackbone(mixed=True)


def large(rows: list[int]) -> ToyBatch:
    """A batch whose true adapters change what the backbone computes by much."""
    batch = batch_of(rows, MIXED)
    batch.stacks = [replace(stack, B=30 * stack.B) for stack in batch.stacks]
    return batch


def outspoken(**options: object) -> AdapterModule:
    """A module of stage II whose predictions do, too, and that learns nothing."""
    module = adapter_module(MIXED, delta_scale=0.7, denoising_scale=3.0, seed=7, **STILL, **options)
    with torch.no_grad():
        for head in module.hypernet.trained.network.head.B.values():
            head.weight.mul_(30)
    return module


@torch.no_grad()
def stage_two(module: AdapterModule, batch: ToyBatch, draws: int, seed: int, step: int = 0) -> dict[str, Tensor]:
    """delta, denoising as trained (with w(t)), and unweighted denoising of the predicted, no and the true adapter."""
    found: dict[str, list[Tensor]] = {}
    prediction = module(batch)
    for row in range(len(batch.ids)):
        own, true = (changes(parts, MIXED, batch, row) for parts in (prediction, batch.stacks))
        apart = torch.cat([(own[name] - true[name]).flatten() for name in true]).abs().mean()
        found.setdefault("delta", []).append(apart / torch.cat([one.flatten() for one in true.values()]).abs().mean())
        for name, change in (("", own), ("_base", {}), ("_lora", true)):
            losses, weights = denoising(change, batch, row, draws, seed, step)
            found.setdefault(f"denoising{name}", []).append(losses.mean())
            if not name:
                found.setdefault("weighted", []).append((weights * losses).mean())
    return {name: torch.stack(rows).mean() for name, rows in found.items()}


@pytest.mark.parametrize("weighted", [True, False])
def test_the_loss_of_stage_two_is_the_scaled_sum_of_its_terms(weighted: bool) -> None:
    batch, module = large([0, 1, 2]), outspoken(noise_draws=2, noise_weighted=weighted)
    lines = fit(module, one(batch))
    expected = stage_two(module, batch, draws=2, seed=7)
    term = expected["weighted" if weighted else "denoising"]
    assert lines.of("train/delta") == [pytest.approx(expected["delta"].item(), rel=1e-4)]
    assert lines.of("train/denoising") == [pytest.approx(term.item(), rel=1e-4)]
    assert lines.of("train/loss") == [pytest.approx((0.7 * expected["delta"] + 3.0 * term).item(), rel=1e-4)]
    assert abs(expected["weighted"] - expected["denoising"]) > 0.01 * term, "the example should tell them apart"


def test_what_stage_two_validates_is_unweighted_and_at_noise_of_its_own() -> None:
    batches, module = [large([0, 1]), large([2])], outspoken()
    (found,) = Trainer(logger=False, **QUIET).validate(module, DataLoader(batches, batch_size=None), verbose=False)
    means = [stage_two(module, batch, VALIDATION_DRAWS, VALIDATION_SEED) for batch in batches]
    expected = {name: float((2 * means[0][name] + means[1][name]) / 3) for name in means[0]}
    losses = sorted(expected[name] for name in ("denoising", "denoising_base", "denoising_lora"))
    assert losses[2] > 1.01 * losses[1] > 1.02 * losses[0], "the example should tell them apart"
    for name in ("delta", "denoising", "denoising_base", "denoising_lora"):
        assert found[f"val/{name}"] == pytest.approx(expected[name], rel=1e-4), name
    assert found["val/loss"] == pytest.approx(0.7 * expected["delta"] + 3.0 * expected["denoising"], rel=1e-4)


def test_validation_is_the_same_at_every_step_of_every_run() -> None:
    """Nothing is learned, so only other noise could change a value; a module made later has no values to repeat."""

    def validated(seed: int, **options: object) -> dict[str, list[float]]:
        module = adapter_module(MIXED, seed=seed, **STILL)
        lines = fit(module, loader(MIXED, 6, 2), loader(MIXED, 3, 2), **options)
        return {name: lines.of(name) for name in ("val/denoising", "val/denoising_base", "val/denoising_lora")}

    twice = validated(seed=0, max_epochs=2)
    late = validated(seed=1, max_epochs=2, check_val_every_n_epoch=2)
    for name, values in twice.items():
        assert len(values) == 2 and len(late[name]) == 1
        assert values == [values[0]] * 2 and late[name] == values[:1], name


def test_the_loss_of_stage_one_is_cross_entropy_and_penalty() -> None:
    batch = batch_of([0, 1, 2], MIXED)
    module = response_module(MIXED, penalty=0.3, **STILL)
    lines = fit(module, one(batch), one(batch))
    logits, targets, factors = [], [], {"A": [], "B": []}
    with torch.no_grad():
        for response, stack in zip(module(batch), batch.stacks, strict=True):
            W = MIXED.weights(stack.layers)
            delta_w = torch.einsum("pl,plor,plri->ploi", stack.alpha, stack.B, stack.A)
            targets.append((delta_w.abs() / (W.abs() + 1e-8) > 0.02).float().flatten())
            logits.append(((torch.einsum("plor,plri->ploi", response.B, response.A) - 0.02) / 0.1).flatten())
            for key, values in factors.items():
                values.append(getattr(response, key).flatten())
    target = torch.cat(targets)
    assert 0.05 < target.mean() < 0.95, "the example should hold both answers"
    entropy = F.binary_cross_entropy_with_logits(torch.cat(logits), target).item()
    penalty = 0.3 * sum(torch.cat(values).square().mean().item() for values in factors.values())
    assert lines.of("train/cross_entropy") == [pytest.approx(entropy, rel=1e-4)]
    assert lines.of("train/penalty") == [pytest.approx(penalty, rel=1e-4)]
    assert lines.of("train/loss") == lines.of("val/loss") == [pytest.approx(entropy + penalty, rel=1e-4)]


@pytest.mark.parametrize("make", [response_module, adapter_module], ids=["stage 1", "stage 2"])
def test_diagnostics_come_once_an_optimizer_step_that_is_due(make: type[PredictorModule]) -> None:
    name = "train/response_cosine" if make is response_module else "train/gradient_share_delta"
    backbone = ToyBackbone()
    data = loader(backbone, 12, 2)  # 6 batches, 3 steps
    for every, expected in ((1, [0, 1, 2]), (2, [0, 2])):
        lines = fit(make(backbone, diagnostics_every=every), data, accumulate_grad_batches=2)
        assert [step for step, values in lines.seen if name in values] == expected


def test_the_rate_moves_with_every_optimizer_step() -> None:
    rates: list[float] = []
    backbone = ToyBackbone()

    class Noted(torch.optim.SGD):
        def step(self, closure: object = None) -> None:
            rates.append(self.param_groups[0]["lr"])
            super().step(closure)

    schedule = partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda step: 1 / (step + 1))
    module = response_module(backbone, optimizer=partial(Noted, lr=0.1), scheduler=schedule)
    fit(module, loader(backbone, 12, 2), accumulate_grad_batches=2, max_epochs=2)
    assert rates == pytest.approx([0.1 / (step + 1) for step in range(6)])
