"""The comparison: its numbers, their shape in metrics.json, and the page written from them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from lofa.adapters import Adapter, LowRank
from lofa.backbones import Backbone
from lofa.errors import ConfigError, DataError
from lofa.evaluation import (
    METRICS,
    Case,
    Evaluation,
    Judges,
    Method,
    Protocol,
    Timing,
    base_method,
    evaluate,
    lofa_method,
    read_curves,
    response_maps,
    write_report,
)
from lofa.predict import Predictor

QUIET = Console(quiet=True)


def random_adapter(backbone: Backbone, seed: int, scale: float) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    return Adapter(
        {
            layer.name: LowRank(
                torch.randn(2, layer.in_features, generator=generator),
                torch.randn(layer.out_features, 2, generator=generator),
                torch.tensor(scale),
            )
            for layer in backbone.layers
        }
    )


@pytest.fixture(scope="module")
def methods(backbone: Backbone, cases: list[Case]) -> list[Method]:
    return [
        Method(
            name,
            {case.id: random_adapter(backbone, seed + place, scale) for place, case in enumerate(cases)},
            Timing((2.0, 3.0, 7.0), "by hand", in_batch),
            "random",
        )
        for name, seed, scale, in_batch in (("lofa", 0, 0.05, None), ("lora", 50, 0.02, 1.5))
    ] + [base_method()]


@pytest.fixture(scope="module")
def outcome(
    world_set: Path, backbone: Backbone, cases: list[Case], methods: list[Method], judges: Judges, protocol: Protocol
) -> Evaluation:
    return evaluate(world_set, backbone, cases, methods, judges, protocol, QUIET)


def test_metrics_have_the_shape_others_rely_on(outcome: Evaluation) -> None:
    metrics = json.loads(json.dumps(outcome.metrics, allow_nan=False))
    assert list(metrics["methods"]) == ["base", "lora", "lofa"]
    assert list(metrics["differences"]) == ["lora-base", "lofa-base", "lofa-lora"]
    for row in (*metrics["methods"].values(), *metrics["differences"].values()):
        assert set(row) == set(METRICS)
        for value in row.values():
            assert {"value", "low", "high"} <= set(value)
    assert metrics["held_out"] == {"classes": 3, "prompts": 3, "clips": 6, "generated": 3, "feature_size": 16}


def test_seconds_are_the_median_between_the_least_and_the_most(outcome: Evaluation) -> None:
    methods, differences = outcome.metrics["methods"], outcome.metrics["differences"]
    measured = {"value": 3.0, "low": 2.0, "high": 7.0, "how": "by hand"}
    assert methods["lofa"]["seconds"] == measured and methods["lora"]["seconds"] == measured | {"in_batch": 1.5}
    assert methods["base"]["seconds"] | {"how": ""} == {"value": 0.0, "low": 0.0, "high": 0.0, "how": ""}
    assert differences["lofa-base"]["seconds"] == {"value": 3.0, "low": 2.0, "high": 7.0}
    assert differences["lofa-lora"]["seconds"] == {"value": 0.0, "low": -5.0, "high": 5.0}


def test_scores_do_not_depend_on_the_batch_or_on_the_other_methods(
    world_set: Path,
    backbone: Backbone,
    cases: list[Case],
    methods: list[Method],
    judges: Judges,
    outcome: Evaluation,
    protocol: Protocol,
) -> None:
    alone = evaluate(world_set, backbone, cases, methods[:1], judges, replace(protocol, batch=3), QUIET)
    for key in METRICS:
        for end in ("value", "low", "high"):
            expected = outcome.metrics["methods"]["lofa"][key][end]
            assert alone.metrics["methods"]["lofa"][key][end] == pytest.approx(expected, rel=1e-2, abs=1e-4)
    assert alone.metrics["differences"] == {} and alone.metrics["gap_closed"] == {}


def test_an_adapter_that_changes_nothing_scores_as_the_base(
    world_set: Path, backbone: Backbone, cases: list[Case], judges: Judges, protocol: Protocol
) -> None:
    nothing = Method("nothing", {case.id: random_adapter(backbone, 0, 0.0) for case in cases}, Timing(), "zeros")
    metrics = evaluate(world_set, backbone, cases, [base_method(), nothing], judges, protocol, QUIET).metrics
    difference = metrics["differences"]["nothing-base"]
    assert all(abs(difference[key][end]) < 1e-4 for key in METRICS for end in ("value", "low", "high"))


def test_methods_of_one_name_are_refused(
    world_set: Path, backbone: Backbone, cases: list[Case], judges: Judges, protocol: Protocol
) -> None:
    with pytest.raises(ConfigError, match="methods=base,base"):
        evaluate(world_set, backbone, cases, [base_method(), base_method()], judges, protocol, QUIET)


def test_the_report_is_one_page_with_everything_in_it(
    outcome: Evaluation, tmp_path: Path, world_set: Path, predictor: Predictor, cases: list[Case], backbone: Backbone
) -> None:
    with SummaryWriter(str(tmp_path / "run" / "log")) as writer:
        for step in range(80):
            writer.add_scalar("train/loss", 1 / (step + 1), step)
            writer.add_scalar("val/loss", 2 / (step + 1), step)
            writer.add_scalar("epoch", 0, step)
    curves = read_curves(tmp_path / "run", "stage 1")
    assert [chart.title for chart in curves] == ["stage 1 loss"] and set(curves[0].series) == {"train", "val"}
    predicted = lofa_method(world_set, predictor, cases, repeats=1).adapters
    assert predicted is not None
    truth = random_adapter(backbone, 3, 0.01)
    maps = response_maps(world_set, predictor, cases[0], truth, predicted[cases[0].id], layers=3)
    path = tmp_path / "report.html"
    write_report(path, outcome, maps={"<b>prompt & co</b>": maps}, curves=curves, facts={"seed": "<0>"}, fps=8)
    page = path.read_text(encoding="utf-8")
    assert "&lt;b&gt;prompt &amp; co&lt;/b&gt;" in page and "&lt;0&gt;" in page and "<b>prompt" not in page
    assert page.count("data:image/webp") == 1 and page.count("data:image/png") == 9
    assert 'src="http' not in page and "href=" not in page and "$" not in page
    for text in ("lofa − base", "lora − base", "stage 1 loss", *(case.group for case in cases)):
        assert text in page


def test_response_maps_are_those_of_the_dense_weights(
    world_set: Path, predictor: Predictor, cases: list[Case], backbone: Backbone
) -> None:
    truth = random_adapter(backbone, 3, 0.01)
    predicted = predictor.predict(prompt=cases[1].anchor.caption)
    asked = predictor.response_map(prompt=cases[1].anchor.caption)
    assert isinstance(asked, dict)
    maps = response_maps(world_set, predictor, cases[1], truth, predicted, layers=4)
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


def test_a_run_without_a_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no TensorBoard log"):
        read_curves(tmp_path)
