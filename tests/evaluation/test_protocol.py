"""The comparison: its numbers, their shape in metrics.json, and the page written from them."""

import json
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from lofa.backbones import Backbone
from lofa.data.samples import values_of
from lofa.errors import ConfigError
from lofa.evaluation import (
    Case,
    Comparison,
    Evaluation,
    Method,
    Metrics,
    Protocol,
    Timing,
    check_needs,
    closing_table,
    evaluate,
    read_curves,
    response_maps,
    write_report,
)
from lofa.metrics import METRICS, ClipMetric, Metric, build_metrics
from lofa.predict import Predictor
from lofa.tasks import Task
from tests.helpers.adapters import random_adapter

BASE = Method("base", None, Timing(), "nothing", "base")


@pytest.fixture(scope="module")
def methods(backbone: Backbone, cases: list[Case]) -> list[Method]:
    table: Any = (("lofa", 0, 0.05, None, "predicted"), ("lora", 50, 0.02, 1.5, "trained"))
    return [
        Method(
            name,
            {
                sample.id: random_adapter(backbone.layers, rank=2, alpha=scale, seed=seed + place, scale=1.0)
                for place, case in enumerate(cases)
                for sample in case.score
            },
            Timing((2.0, 3.0, 7.0), "by hand", in_batch),
            "random",
            role,
        )
        for name, seed, scale, in_batch, role in table
    ] + [BASE]


@pytest.fixture(scope="module")
def outcome(comparison: Comparison, methods: list[Method], metrics: Metrics, protocol: Protocol) -> Evaluation:
    return evaluate(comparison, methods, metrics, protocol)


def test_metrics_have_the_shape_others_rely_on(outcome: Evaluation, task: Task) -> None:
    metrics = json.loads(json.dumps(outcome.metrics, allow_nan=False))
    assert list(metrics["methods"]) == ["base", "lora", "lofa"]
    assert list(metrics["differences"]) == ["lora-base", "lofa-base", "lofa-lora"]
    for row in (*metrics["methods"].values(), *metrics["differences"].values()):
        assert tuple(row) == (*task.metrics, "seconds")
        for value in row.values():
            assert {"value", "low", "high"} <= set(value)
    assert list(metrics["steering_margin"]) == ["lora", "lofa"] and list(metrics["gap_closed"]) <= ["lofa"]
    assert list(metrics["real"]) == ["clip_t", "dynamic_degree"]
    sizes = {"fvd": 16}
    assert metrics["held_out"] == {"classes": 3, "prompts": 3, "clips": 6, "generated": 3, "feature_size": sizes}


def test_seconds_are_the_median_between_the_least_and_the_most(outcome: Evaluation) -> None:
    methods, differences = outcome.metrics["methods"], outcome.metrics["differences"]
    measured = {"value": 3.0, "low": 2.0, "high": 7.0, "how": "by hand"}
    assert methods["lofa"]["seconds"] == measured and methods["lora"]["seconds"] == measured | {"in_batch": 1.5}
    assert methods["base"]["seconds"] | {"how": ""} == {"value": 0.0, "low": 0.0, "high": 0.0, "how": ""}
    assert differences["lofa-base"]["seconds"] == {"value": 3.0, "low": 2.0, "high": 7.0}
    assert differences["lofa-lora"]["seconds"] == {"value": 0.0, "low": -5.0, "high": 5.0}


def test_scores_do_not_depend_on_the_batch_or_on_the_other_methods(
    comparison: Comparison, methods: list[Method], metrics: Metrics, outcome: Evaluation, protocol: Protocol
) -> None:
    alone = evaluate(comparison, methods[:1], metrics, replace(protocol, batch=3))
    for key in (*metrics, "seconds"):
        for end in ("value", "low", "high"):
            expected = outcome.metrics["methods"]["lofa"][key][end]
            assert alone.metrics["methods"]["lofa"][key][end] == pytest.approx(expected, rel=1e-2, abs=1e-4)
    assert alone.metrics["differences"] == {} and alone.metrics["gap_closed"] == {}


def test_an_adapter_that_changes_nothing_scores_as_the_base(
    comparison: Comparison, backbone: Backbone, cases: list[Case], metrics: Metrics, protocol: Protocol
) -> None:
    adapters = {sample.id: random_adapter(backbone.layers, alpha=0.0) for case in cases for sample in case.score}
    nothing = Method("nothing", adapters, Timing(), "zeros")
    written = evaluate(comparison, [BASE, nothing], metrics, protocol).metrics
    difference, margin = written["differences"]["nothing-base"], written["steering_margin"]["nothing"]
    assert all(abs(row[end]) < 1e-4 for row in (*difference.values(), margin) for end in ("value", "low", "high"))


def test_the_report_is_one_page_with_everything_in_it(
    outcome: Evaluation, tmp_path: Path, world_set: Path, predictor: Predictor, cases: list[Case], backbone: Backbone
) -> None:
    with SummaryWriter(str(tmp_path / "run" / "log")) as writer:
        for step in range(80):
            writer.add_scalar("train/loss", 1 / (step + 1), step)
            writer.add_scalar("val/loss", 2 / (step + 1), step)
            writer.add_scalar("epoch", 0, step)
    curves = {f"stage 1 {name}": lines for name, lines in read_curves(tmp_path / "run").items()}
    assert list(curves) == ["stage 1 loss"] and set(curves["stage 1 loss"]) == {"train", "val"}
    truth, anchor = random_adapter(backbone.layers, rank=2, alpha=0.01, seed=3, scale=1.0), cases[0].anchor
    maps = response_maps(world_set, predictor, anchor, truth, predictor.predict(prompt=anchor.caption), layers=3)
    path = tmp_path / "report.html"
    write_report(path, outcome, maps={"<b>prompt & co</b>": maps}, curves=curves, facts={"seed": "<0>"}, fps=8)
    page = path.read_text(encoding="utf-8")
    assert "&lt;b&gt;prompt &amp; co&lt;/b&gt;" in page and "&lt;0&gt;" in page and "<b>prompt" not in page
    assert page.count("data:image/webp") == 1 and page.count("data:image/png") == 9
    assert all(target.startswith(("#", "data:")) for target in re.findall(r'(?:src|href)="([^"]*)"', page))
    assert "{{" not in page and "{%" not in page
    titles = (METRICS[key].arrow for key in ("fvd", "clip_t", "denoising_loss", "dynamic_degree"))
    for text in ("lofa − base", "lora − base", "stage 1 loss", "steering margin", *titles):
        assert text in page
    assert all(case.group in page for case in cases)


class Brightness(ClipMetric):
    """A toy: mean of all pixels, in [0, 1]."""

    higher_is_better = True

    def rows(self, generated: Tensor) -> Tensor:
        return generated.double().mean((1, 2, 3, 4)) / 255


class Odd(ClipMetric):
    """A toy share: 1 for every other clip."""

    higher_is_better = True
    plot_lower_bound, plot_upper_bound = 0.0, 1.0

    def rows(self, generated: Tensor) -> Tensor:
        return torch.arange(len(generated)) % 2


def test_the_interval_of_a_share_ends_at_its_bounds(
    comparison: Comparison, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METRICS, "odd", Metric("odd", Odd, "a share"))
    made = build_metrics(["odd"], {})
    row = evaluate(comparison, [BASE], made, protocol).metrics["methods"]["base"]["odd"]
    assert row["value"] == pytest.approx(1 / 3) and row["low"] == 0 and row["value"] < row["high"] <= 1


def test_a_metric_is_one_class_and_one_line_of_the_table(
    comparison: Comparison,
    methods: list[Method],
    protocol: Protocol,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(METRICS, "brightness", Metric("brightness", Brightness, "how bright clips are"))
    made = build_metrics(["brightness", "denoising_loss"], {})
    more = [*methods, replace(methods[0], name="lofa_of_another_run_and_size")]
    outcome = evaluate(comparison, more, made, protocol)
    assert 0 < outcome.metrics["methods"]["lofa"]["brightness"]["value"] < 1
    assert "brightness" in outcome.metrics["real"] and "brightness" in outcome.metrics["differences"]["lofa-lora"]
    write_report(tmp_path / "report.html", outcome)
    assert "brightness ↑" in (tmp_path / "report.html").read_text(encoding="utf-8")
    console = Console(record=True, width=200, file=StringIO())
    console.print(closing_table(outcome))
    printed = console.export_text()
    assert "brightness ↑" in printed and "steering margin ↑" in printed
    narrow = Console(record=True, width=60, file=StringIO())
    narrow.print(closing_table(outcome))
    lines = narrow.export_text().splitlines()
    assert all(len(line) <= 60 for line in lines) and not any("…" in line for line in lines)
    digits = "".join(character for character in printed if character.isdigit())
    assert sorted(digits) == sorted(c for line in lines for c in line if c.isdigit()), "no number is cut off"


def test_metrics_that_need_what_a_set_lacks_are_refused(cases: list[Case], monkeypatch: pytest.MonkeyPatch) -> None:
    reference = Metric("style", Brightness, "likeness", ("reference",))
    monkeypatch.setitem(METRICS, "style", reference)
    with pytest.raises(ConfigError, match="metric style needs reference"):
        check_needs(["style"], cases)
    blind = [replace(case, score=tuple(replace(one, encoded=("latents",)) for one in case.score)) for case in cases]
    with pytest.raises(ConfigError, match="metric pose_accuracy needs the joints"):
        check_needs(["pose_accuracy"], blind)


def test_pose_metrics_look_for_the_joints_asked_for_in_pixels(
    comparison: Comparison, world_set: Path, backbone: Backbone, cases: list[Case], protocol: Protocol
) -> None:
    """An estimator that gives each real clip's own joints, three pixels off, in the order of the clips."""
    poses = [
        torch.as_tensor(pose) * torch.tensor([32.0, 32.0])
        for pose in values_of(world_set, [case.score[0] for case in cases], backbone, ["pose"])["pose"]
    ]
    estimator = lambda clips: torch.stack(poses)[: len(clips)] + torch.tensor([0.0, 3.0])  # noqa: E731
    made = build_metrics(["mpjpe", "pose_accuracy"], {"pose": estimator})
    written = evaluate(comparison, [BASE], made, protocol).metrics
    assert written["methods"]["base"]["mpjpe"]["value"] == pytest.approx(3.0, rel=1e-5)
    assert 0 < written["methods"]["base"]["pose_accuracy"]["value"] <= 1


def test_response_maps_are_those_of_the_dense_weights(
    world_set: Path, predictor: Predictor, cases: list[Case], backbone: Backbone
) -> None:
    truth = random_adapter(backbone.layers, rank=2, alpha=0.01, seed=3, scale=1.0)
    predicted = predictor.predict(prompt=cases[1].anchor.caption)
    asked = predictor.response_map(prompt=cases[1].anchor.caption)
    assert isinstance(asked, dict)
    maps = response_maps(world_set, predictor, cases[1].anchor, truth, predicted, layers=4)
    names = [layer.name for layer in backbone.layers]
    assert [layer.layer for layer in maps] == [names[0], names[5], names[10], names[15]]
    for layer in maps:
        W = backbone.weight(layer.layer)
        for found, adapter in ((layer.truth, truth), (layer.implied, predicted)):
            pair = adapter[layer.layer]
            delta = (pair.alpha * pair.B @ pair.A).abs()
            assert torch.equal(found, (delta > 0.02 * (W.abs() + 1e-8)).float())
        torch.testing.assert_close(layer.predicted, asked[layer.layer])
        p, r = layer.predicted.double(), layer.truth.double()
        cosine = float((p * r).sum() / p.square().sum().sqrt() / r.square().sum().sqrt())
        assert layer.cosine == pytest.approx(cosine, rel=1e-5)
        constant = float(r.sum() / r.numel() ** 0.5 / r.square().sum().sqrt())
        assert layer.constant_cosine == pytest.approx(constant, rel=1e-5)


def test_a_run_without_a_log_has_no_curves(tmp_path: Path) -> None:
    assert read_curves(tmp_path) == {}
