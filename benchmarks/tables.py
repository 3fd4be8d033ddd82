"""The tables of docs/results.md, in Markdown, from the metrics.json of one run or of several seeds.

    python benchmarks/tables.py runs/demo                          # value [95 % interval over prompts]
    python benchmarks/tables.py runs/seed-0 runs/seed-1 runs/seed-2    # mean over runs (lowest to highest run)

With several runs each cell is the mean of their values and, in round brackets, the range of these values; a difference
is marked with how many runs' own intervals exclude 0. Runs are not pooled into one narrower interval: three seeds are
too few for one, and their prompts are the same.
"""

import argparse
from pathlib import Path
from typing import Any

from lofa.files import read_json
from lofa.metrics import METRICS


def cell(entries: list[dict[str, Any]], metric: str, difference: bool) -> str:
    """One value with its interval, or the mean over runs with their range."""
    values = [entry["value"] for entry in entries]
    mean = sum(values) / len(values)
    if metric == "seconds":
        if difference:
            return ""
        batches = [entry["in_batch"] for entry in entries if "in_batch" in entry]
        return f"{mean:.3g}" + (f" alone, {sum(batches) / len(batches):.3g} each in a batch" if batches else "")
    digits = METRICS[metric].digits
    if len(entries) == 1:
        return f"{mean:.{digits}f} [{entries[0]['low']:.{digits}f}, {entries[0]['high']:.{digits}f}]"
    text = f"{mean:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
    if difference:
        clear = sum(entry["low"] > 0 or entry["high"] < 0 for entry in entries)
        text += f", {clear} of {len(entries)}"
    return text


def table(runs: list[dict[str, Any]]) -> list[str]:
    """Lines of the table, then of what it was measured on."""
    metrics = list(next(iter(runs[0]["methods"].values())))
    titles = ("seconds an adapter" if name == "seconds" else METRICS[name].arrow for name in metrics)
    lines = ["| | " + " | ".join(titles) + " |", "|---" * (1 + len(metrics)) + "|"]
    for part in ("methods", "differences"):
        for name in runs[0][part]:
            cells = (cell([run[part][name][m] for run in runs], m, part == "differences") for m in metrics)
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines.append("")
    for name in runs[0]["gap_closed"]:
        closed = (run["gap_closed"][name] for run in runs)
        shares = ", ".join(f"{c['value']:.0%} [{c['low']:.0%}, {c['high']:.0%}]" for c in closed)
        goal = runs[0]["gap_closed"][name].get("to", "lora")  # runs before 0.2 knew no other
        lines.append(f"{name} closes {shares} of the loss gap from base to {goal}.")
    for name in runs[0].get("steering_margin", {}):
        margins = ", ".join(
            f"{m['value']:.4f} [{m['low']:.4f}, {m['high']:.4f}]"
            for m in (run["steering_margin"][name] for run in runs)
        )
        lines.append(f"{name}: steering margin {margins}.")
    for run in runs:
        methods = run["methods"]
        if {"lora", "lofa"} <= set(methods):
            lora, lofa = methods["lora"]["seconds"], methods["lofa"]["seconds"]["value"]
            lines.append(
                f"lofa: {1e3 * lofa:.1f} ms an adapter; lora takes {lora['value'] / lofa:.0f} times as long alone, "
                f"{lora['in_batch'] / lofa:.0f} times in a batch."
            )
    held_out = runs[0]["held_out"]
    lines.append(", ".join(f"{held_out[key]} {key}" for key in held_out if key != "feature_size") + ".")
    return lines


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders with a metrics.json, of the same methods")
    runs = [read_json(path / "metrics.json") for path in parser.parse_args().runs]
    print("\n".join(table(runs)))


if __name__ == "__main__":
    main()
