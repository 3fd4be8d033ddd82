"""benchmarks/tables.py: the tables of docs/results.md say what the metrics.json of the runs say."""

from typing import Any

from benchmarks.tables import table


def _run(shift: float) -> dict[str, Any]:
    def entry(value: float) -> dict[str, float]:
        return {"value": value + shift, "low": value + shift - 0.5, "high": value + shift + 0.5}

    scores = {"fvd": entry(200), "clip_t": entry(0.4), "denoising_loss": entry(0.3)}
    lora, lofa = {"value": 2.0, "in_batch": 1.0}, {"value": 0.02}
    return {
        "methods": {"lora": scores | {"seconds": lora}, "lofa": scores | {"seconds": lofa}},
        "differences": {
            "lofa-lora": {"fvd": entry(-9), "clip_t": entry(0), "denoising_loss": entry(0.4), "seconds": lofa}
        },
        "gap_closed": {"lofa": {"value": 0.9, "low": 0.8, "high": 1.0}},
        "held_out": {"classes": 3, "feature_size": 48},
    }


def test_one_run_shows_its_intervals() -> None:
    lines = table([_run(0.0)])
    assert (
        "| lora | 200 [200, 200] | 0.400 [-0.100, 0.900] | 0.3000 [-0.2000, 0.8000] | 2 alone, 1 each in a batch |"
        in lines
    )
    assert "lofa closes 90% [80%, 100%] of the loss gap from base to lora." in lines
    assert "lofa: 20.0 ms an adapter; lora takes 100 times as long alone, 50 times in a batch." in lines


def test_several_runs_show_their_range_and_how_many_are_clear_of_zero() -> None:
    (difference,) = (line for line in table([_run(0.0), _run(0.2)]) if line.startswith("| lofa-lora"))
    assert "-9 (-9 to -9), 2 of 2" in difference
    assert "0.100 (0.000 to 0.200), 0 of 2" in difference
    assert "0.5000 (0.4000 to 0.6000), 1 of 2" in difference
