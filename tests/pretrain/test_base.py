"""The base model is shown nothing but generic clips."""

import io
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from lofa.conditions import Condition
from lofa.pretrain import Schedule
from lofa.pretrain import base as room
from lofa.worlds import ACTIONS, Clip, sample_batch
from lofa.worlds.captions import split_words


class _Backbone:
    """As much of a backbone as the training asks for; one parameter."""

    def __init__(self) -> None:
        self.denoiser = {"transformer": nn.Linear(1, 1, bias=False)}
        self.prompts: list[str] = []
        self.widths: list[int] = []
        self.weights: list[float] = []

    def encode_video(self, clips: Tensor) -> Tensor:
        return torch.zeros(len(clips), 2, 1, 2, 2)

    def encode_prompt(self, prompts: list[str]) -> Condition:
        self.prompts += prompts
        rows = [torch.ones(len(split_words(prompt)) + 1, 3) for prompt in prompts]
        return Condition.from_rows(rows)

    def denoising_loss(self, latents: Tensor, condition: Condition, generator: torch.Generator) -> Tensor:
        assert len(latents) == len(condition)
        self.widths += condition.lengths.tolist()
        self.weights.append(self.denoiser["transformer"].weight.item())
        return (self.denoiser["transformer"].weight.square().sum() + 1).expand(len(latents))


@pytest.fixture(scope="module")
def trained() -> tuple[_Backbone, list[str | None]]:
    """The backbone after 40 steps, and the classes its clips were drawn from."""
    drawn: list[str | None] = []
    backbone = _Backbone()

    def record(names: list[str | None], seeds: Any) -> list[Clip]:
        drawn.extend(names)
        return sample_batch(names, seeds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "sample_batch", record)
        schedule, console = Schedule(40, 16, 0.1), Console(file=io.StringIO())
        room.train_transformer(backbone, schedule, clips=12, seed=0, console=console)  # type: ignore[arg-type]
    return backbone, drawn


def test_only_generic_clips_and_captions(trained: tuple[_Backbone, list[str | None]]) -> None:
    backbone, drawn = trained
    assert drawn and set(drawn) == {None}
    words = {word for prompt in backbone.prompts for word in split_words(prompt)}
    verbs = {action.parts[0].verb for action in ACTIONS.values()}
    assert not words & {f"{verb}s" for verb in verbs}
    assert "" in backbone.prompts  # what guidance leads away from


def test_some_samples_see_the_empty_prompt(trained: tuple[_Backbone, list[str | None]]) -> None:
    backbone, _ = trained
    share = sum(width == 1 for width in backbone.widths[: 40 * 16]) / (40 * 16)
    assert 0.04 < share < 0.2


def test_the_kept_weights_are_the_mean_of_the_last_third_of_the_steps(
    trained: tuple[_Backbone, list[str | None]],
) -> None:
    backbone, _ = trained
    transformer = backbone.denoiser["transformer"]
    last = backbone.weights[26:40]
    assert transformer.weight.item() == pytest.approx(sum(last) / len(last), rel=1e-5)
    assert not any(parameter.requires_grad for parameter in transformer.parameters())
