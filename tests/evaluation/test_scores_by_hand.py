"""Every score that `evaluate` writes beside one computed from scratch.

The clips come from diffusers' own pipeline with each adapter merged into its weights, from the seeds that a sample's id
gives; the features and cosines from transformers' models; means, Fréchet distances and intervals from numpy loops.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanPipeline
from safetensors.torch import load_file
from torch import Tensor

from lofa.adapters import Adapter
from lofa.backbones import Backbone
from lofa.evaluation import Case, ClassLora, Comparison, Evaluation, Method, Metrics, Protocol, Timing, evaluate
from tests.helpers.adapters import random_adapter
from tests.helpers.tiny_wan import SAMPLING

LEVELS, DRAWS, SEED = 3, 40, 11
PROTOCOL = Protocol(noise_levels=LEVELS, batch=4, draws=DRAWS, seed=SEED, pictures=0)
ROLES: Any = {"base": "base", "lora": "trained", "lofa": "predicted"}
Scores = dict[str, list[list[Any]]]
"""Method -> case -> what each of its clips scores."""


def number(text: str, size: int) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=size).digest()) >> 1


class ByHand:
    """The scores of one adapter on one sample, of the plain pipeline."""

    def __init__(self, pipeline: WanPipeline, set_dir: Path, metrics: Metrics, adapter: Adapter | None) -> None:
        self.set_dir, self.metrics = set_dir, metrics
        self.transformer = copy.deepcopy(pipeline.transformer)
        self.pipeline = WanPipeline(**{**pipeline.components, "transformer": self.transformer})
        self.pipeline.set_progress_bar_config(disable=True)
        for name, pair in (adapter or {}).items():
            linear = self.transformer.get_submodule(name.removeprefix("transformer."))
            linear.weight.data += pair.alpha * pair.B @ pair.A

    def loss(self, sample: Any) -> float:
        """Mean over the sample's levels of |v - (n - x_0)|^2."""
        file = load_file(self.set_dir / "encoded" / f"{sample.id}.safetensors")
        x_0, text = file["latents"].float(), file["condition.text"].float()
        tokens = torch.zeros(1, 200, text.shape[1])
        tokens[0, : len(text)] = text
        generator = torch.Generator().manual_seed(number(f"{SEED}/0/{sample.id}", 8))
        noise = torch.randn((LEVELS, *x_0.shape), generator=generator)
        u = torch.rand(LEVELS, generator=generator).tolist()
        errors = []
        for level in range(LEVELS):
            s = 1 - int((level + u[level]) / LEVELS * 1000) / 1000
            sigma = 5 * s / (1 + 4 * s)
            x_t = (1 - sigma) * x_0 + sigma * noise[level]
            v = self.transformer(x_t[None], torch.tensor([1000 * sigma]), tokens).sample[0]
            errors.append(float(((v - (noise[level] - x_0)) ** 2).mean()))
        return float(np.mean(errors))

    def generated(self, sample: Any) -> Tensor:
        noise = torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(number(f"{SEED}/{sample.id}", 4)))
        latents = self.pipeline(
            sample.caption,
            negative_prompt="",
            latents=noise,
            height=32,
            width=32,
            num_frames=5,
            num_inference_steps=SAMPLING["steps"],
            guidance_scale=SAMPLING["guidance"],
            max_sequence_length=200,
            output_type="latent",
        ).frames
        return self.decoded(latents[0])

    def real(self, sample: Any) -> Tensor:
        return self.decoded(load_file(self.set_dir / "encoded" / f"{sample.id}.safetensors")["latents"].float())

    def decoded(self, latents: Tensor) -> Tensor:
        vae = self.pipeline.vae
        mean, std = (torch.tensor(v).view(-1, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
        pixels = vae.decode((latents * std + mean)[None]).sample[0]
        return ((pixels + 1) * 127.5).clamp(0, 255).round().to(torch.uint8).permute(1, 2, 3, 0)

    def clip_t(self, clip: Tensor, caption: str) -> float:
        encoder: Any = self.metrics["clip_t"].encoder
        tokens = encoder.tokenizer([caption], truncation=True, max_length=6, return_tensors="pt")
        out = encoder.model(input_ids=tokens.input_ids, pixel_values=encoder.preprocessing(clip))
        image, text = out.image_embeds.numpy(), out.text_embeds.numpy()[0]
        cosines = [float(row @ text / np.linalg.norm(row) / np.linalg.norm(text)) for row in image]
        return float(np.mean(cosines))

    def features(self, clip: Tensor) -> np.ndarray:
        network: Any = self.metrics["fvd"].feature_extractor
        pixels = network.preprocessing(clip[[0, 1, 3, 4]])
        tokens = network.model(pixel_values=pixels[None]).last_hidden_state[0]
        return tokens.double().numpy().mean(0)


@pytest.fixture(scope="module")
def some_cases(cases: list[Case]) -> list[Case]:
    """Prompts of two, one and two clips: a mean over clips is not the mean over prompts."""
    return [cases[0], replace(cases[1], score=cases[1].score[:1]), cases[2]]


@pytest.fixture(scope="module")
def plain(tiny_wan_random: Path) -> WanPipeline:
    return WanPipeline.from_pretrained(tiny_wan_random)


@pytest.fixture(scope="module")
def by_hand(
    world_set: Path,
    plain: WanPipeline,
    backbone: Backbone,
    some_cases: list[Case],
    metrics: Metrics,
    comparison: Comparison,
) -> tuple[dict[str, Mapping[str, Adapter] | None], dict[str, Scores]]:
    """Adapters by method, and metric -> scores. Lora is trained, so it lowers the loss; lofa is strong and random.

    Mixed up are the two adapters by hand: of the prompts a, b, c, each is given that of the one behind it.
    """
    comparison = replace(comparison, cases=some_cases)
    trained = ClassLora(rank=2, steps=12, lr=0.1, warmup=0, repeats=1).make("lora", comparison).adapters
    scored = [sample for case in some_cases for sample in case.score]
    strong = {
        sample.id: random_adapter(backbone.layers, alpha=8.0 + turn, seed=place)
        for place, case in enumerate(some_cases)
        for turn, sample in enumerate(case.score)
    }
    methods = {"base": None, "lora": trained, "lofa": strong}
    a1, a2, b, c1, c2 = (sample.id for sample in scored)
    behind = {a1: b, a2: b, b: c1, c1: a1, c2: a2}
    mixed = {
        f"{name}_shuffled": {to: own[of] for to, of in behind.items()}
        for name, own in methods.items()
        if own is not None
    }
    with torch.no_grad():

        def scores(adapters: Mapping[str, Adapter] | None, one: Callable[[ByHand, Any], Any]) -> list[list[Any]]:
            return [
                [
                    one(ByHand(plain, world_set, metrics, None if adapters is None else adapters[s.id]), s)
                    for s in case.score
                ]
                for case in some_cases
            ]

        found: dict[str, Scores] = {
            "denoising_loss": {name: scores(adapters, ByHand.loss) for name, adapters in {**methods, **mixed}.items()}
        }
        clips = {name: scores(adapters, ByHand.generated) for name, adapters in methods.items()}
        clips["real"] = scores(None, ByHand.real)
        hand = ByHand(plain, world_set, metrics, None)
        found["clip_t"] = {
            name: [
                [hand.clip_t(clip, sample.caption) for clip, sample in zip(row, case.score, strict=True)]
                for row, case in zip(rows, some_cases, strict=True)
            ]
            for name, rows in clips.items()
        }
        found["fvd"] = {name: [[hand.features(clip) for clip in row] for row in rows] for name, rows in clips.items()}
    return methods, found


@pytest.fixture(scope="module")
def outcome(comparison: Comparison, some_cases: list[Case], metrics: Metrics, by_hand: tuple[Any, Any]) -> Evaluation:
    methods = [Method(name, adapters, Timing(), "made", ROLES[name]) for name, adapters in by_hand[0].items()]
    return evaluate(replace(comparison, cases=some_cases), methods, metrics, PROTOCOL)


def mean_of_means(rows: list[list[float]]) -> float:
    return float(np.mean([np.mean(row) for row in rows]))


def distance(rows: list[list[np.ndarray]], real: list[list[np.ndarray]]) -> float:
    """|mu1 - mu2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^1/2 of all clips of some prompts."""
    (mu1, s1), (mu2, s2) = (
        (np.mean(clips, 0), np.cov(np.array(clips), rowvar=False)) for clips in (sum(rows, []), sum(real, []))
    )
    root = np.sqrt(np.linalg.eigvals(s1 @ s2).real.clip(0)).sum()
    return float(((mu1 - mu2) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * root)


def value(found: dict[str, Scores], metric: str, name: str, drawn: list[int]) -> float:
    """A method's score were the prompts those `drawn`, with all their clips."""
    rows = [found[metric][name][unit] for unit in drawn]
    return distance(rows, [found[metric]["real"][unit] for unit in drawn]) if metric == "fvd" else mean_of_means(rows)


def ends(of: Callable[[list[int]], float]) -> dict[str, float]:
    """The value on all prompts, and the middle 95 % of what it is on prompts drawn again, moved onto the value."""
    draws = torch.randint(3, (DRAWS, 3), generator=torch.Generator().manual_seed(SEED)).tolist()
    exact, drawn = of([0, 1, 2]), np.array([of(draw) for draw in draws])
    low, high = np.percentile(drawn, [2.5, 97.5]) + exact - drawn.mean()
    return {"value": exact, "low": float(low), "high": float(high)}


def agrees(written: dict[str, float], expected: dict[str, float], metric: str) -> None:
    """Up to float32, and in what is seen of clips up to the pixels that a last bit rounds the other way."""
    close = 1e-4 if metric == "denoising_loss" else 1e-2
    for end in ("value", "low", "high"):
        width = expected["high"] - expected["low"]
        assert written[end] == pytest.approx(expected[end], rel=close, abs=close * width), end


@pytest.mark.parametrize("metric", ["denoising_loss", "clip_t", "fvd"])
def test_scores_and_intervals(metric: str, outcome: Evaluation, by_hand: tuple[Any, dict[str, Scores]]) -> None:
    written, found = outcome.metrics, by_hand[1]
    for name in ("base", "lora", "lofa"):
        expected = ends(lambda drawn, name=name: value(found, metric, name, drawn))
        agrees(written["methods"][name][metric], expected, metric)


@pytest.mark.parametrize("metric", ["denoising_loss", "clip_t", "fvd"])
def test_differences_are_paired(metric: str, outcome: Evaluation, by_hand: tuple[Any, dict[str, Scores]]) -> None:
    written, found = outcome.metrics["differences"], by_hand[1]
    for later, earlier in (("lora", "base"), ("lofa", "base"), ("lofa", "lora")):
        expected = ends(
            lambda drawn, later=later, earlier=earlier: (
                value(found, metric, later, drawn) - value(found, metric, earlier, drawn)
            )
        )
        agrees(written[f"{later}-{earlier}"][metric], expected, metric)


def test_real_clips_have_a_clip_t_too(outcome: Evaluation, by_hand: tuple[Any, dict[str, Scores]]) -> None:
    agrees(outcome.metrics["real"]["clip_t"], ends(lambda drawn: value(by_hand[1], "clip_t", "real", drawn)), "clip_t")


def test_the_gap_closed_runs_from_base_to_lora(outcome: Evaluation, by_hand: tuple[Any, dict[str, Scores]]) -> None:
    def share(drawn: list[int]) -> float:
        base, lora, lofa = (value(by_hand[1], "denoising_loss", name, drawn) for name in ("base", "lora", "lofa"))
        return (base - lofa) / (base - lora)

    expected = ends(share)
    assert expected["value"] < 0, "lofa raises the loss here, lora lowers it"
    assert list(outcome.metrics["gap_closed"]) == ["lofa"] and outcome.metrics["gap_closed"]["lofa"]["to"] == "lora"
    agrees(outcome.metrics["gap_closed"]["lofa"], expected, "denoising_loss")


@pytest.mark.parametrize("name", ["lora", "lofa"])
def test_the_steering_margin_is_the_shuffled_loss_minus_the_own(
    name: str, outcome: Evaluation, by_hand: tuple[Any, Any]
) -> None:
    def margin(drawn: list[int]) -> float:
        mixed, own = (value(by_hand[1], "denoising_loss", one, drawn) for one in (f"{name}_shuffled", name))
        return mixed - own

    assert list(outcome.metrics["steering_margin"]) == ["lora", "lofa"]
    agrees(outcome.metrics["steering_margin"][name], ends(margin), "denoising_loss")


def test_scores_of_each_prompt(
    outcome: Evaluation, some_cases: list[Case], by_hand: tuple[Any, dict[str, Scores]]
) -> None:
    for place, (case, row) in enumerate(zip(some_cases, outcome.prompts, strict=True)):
        assert row.case is case
        assert row.losses == row.scores["denoising_loss"]
        for metric in ("denoising_loss", "clip_t"):
            written = row.scores[metric]
            for name in ("base", "lora", "lofa"):
                expected = value(by_hand[1], metric, name, [place])
                assert written[name] == pytest.approx(expected, rel=2e-3, abs=1e-4)


def test_where_lora_is_not_better_than_base_no_gap_is_closed(
    comparison: Comparison, some_cases: list[Case], metrics: Metrics, by_hand: tuple[Any, Any]
) -> None:
    names = {"base": "base", "lora": "lofa", "lofa": "lora"}  # lora is what raises the loss
    swapped = [Method(name, by_hand[0][of], Timing(), "swapped", ROLES[name]) for name, of in names.items()]
    written = evaluate(replace(comparison, cases=some_cases), swapped, metrics, PROTOCOL).metrics
    assert written["methods"]["lora"]["denoising_loss"]["value"] > written["methods"]["base"]["denoising_loss"]["value"]
    assert written["gap_closed"] == {}


def test_the_gap_runs_to_the_best_trained_lora(
    comparison: Comparison, some_cases: list[Case], metrics: Metrics, by_hand: tuple[Any, Any]
) -> None:
    roles = {"base": "base", "lofa": "trained", "lora": "trained"}
    methods: Any = [Method(name, by_hand[0][name], Timing(), "made", role) for name, role in roles.items()]  # type: ignore[arg-type]
    written = evaluate(replace(comparison, cases=some_cases), methods, metrics, PROTOCOL).metrics
    assert list(written["gap_closed"]) == ["lofa"] and written["gap_closed"]["lofa"]["to"] == "lora"
