"""What each correction of the published network is worth, and the cached design at equal training time, seed by seed.

    lofa demo seed=0 data=seed-0 name=seed-0             # makes the data sets and zoos; the same for seeds 1 and 2
    python benchmarks/corrections.py --seeds 0 1 2 --workers 2

Trains both stages of every experiment on the set `seed-<seed>`, then compares all of a seed with base and LoRA on its
held-out classes in one eval.py; `lofa` is the demo itself. Printed are two tables, seed by seed: the denoising loss and
the response map's cosine on the validation classes, by which a design is chosen; and the denoising loss on the siblings
of the held-out classes, with the 95 % interval of the difference to the demo's, paired over prompts. What is finished
is not run again.
"""

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.progress import Progress

from lofa.files import read_json

LOSS_ALONE = ("evaluation.generated_per_prompt=1", "evaluation.pictures=0", "method.lora.repeats=1")
"""The report is not looked at: few clips are generated."""
SIBLING = "task.prompt=sibling"
"""Predictors are asked with another clip's prompt: what docs/results.md compares them by."""
ROOT = Path(__file__).parent.parent
EXPERIMENTS = {
    "lofa": "demo",
    **{
        name: f"quirk_{name}" for name in ("columns", "softplus", "first_tile", "padding", "last_block", "alpha", "all")
    },
    "cached": "cached",
}


def main() -> None:
    """Trains, evaluates, prints the table of the validation classes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--names", nargs="+", default=list(EXPERIMENTS), choices=EXPERIMENTS)
    parser.add_argument("--workers", type=int, default=2, help="trainings at once, each with one thread")
    parser.add_argument("--runs", type=Path, default=Path("runs/corrections"))
    given = parser.parse_args()

    jobs = [(name, seed) for seed in given.seeds for name in given.names]
    with Progress() as progress, ThreadPoolExecutor(given.workers) as pool:
        task = progress.add_task("trainings", total=2 * len(jobs))

        def both_stages(job: tuple[str, int]) -> None:
            name, seed = job
            first, second = (run_of(given.runs, name, seed, stage) for stage in (1, 2))
            train(name, seed, 1, first)
            progress.advance(task)
            train(name, seed, 2, second, f"response={first}")
            progress.advance(task)

        list(pool.map(both_stages, jobs))
    for seed in given.seeds:
        out = given.runs / f"eval-{seed}"
        if not (out / "metrics.json").exists():
            runs = {name: run_of(given.runs, name, seed, 2) for name in given.names}
            further = [f"+predictors.{name}={folder}" for name, folder in runs.items() if name != "lofa"]
            predictors = [f"predictor={runs['lofa']}", *further]
            run(
                "eval.py", seed, "demo", out, f"methods=[base,lora,{','.join(runs)}]", *predictors, *LOSS_ALONE, SIBLING
            )
    print("\n".join([*validation_table(given.runs, given.names, given.seeds), ""]))
    print("\n".join(test_table(given.runs, given.names, given.seeds)))


def run_of(runs: Path, name: str, seed: int, stage: int) -> Path:
    """Where a training lies."""
    return runs / f"{name}-{seed}-stage{stage}"


def train(name: str, seed: int, stage: int, out: Path, *overrides: str) -> None:
    """One stage, unless it is there."""
    if not (out / "run.json").exists():
        quiet = ("trainer.enable_progress_bar=false", "stages.s2.clips=0")
        run("train.py", seed, EXPERIMENTS[name], out, f"stage={stage}", *quiet, *overrides, threads=1)


def run(script: str, seed: int, experiment: str, out: Path, *overrides: str, threads: int | None = None) -> None:
    """A command of the project in a process of its own; its output goes to a file beside the run."""
    shared = (f"experiment={experiment}", f"data=seed-{seed}", f"seed={seed}", f"name={out.relative_to('runs')}")
    command = [sys.executable, str(ROOT / script), *shared, *overrides]
    environment = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    out.parent.mkdir(parents=True, exist_ok=True)
    with (out.parent / f"{out.name}.log").open("w") as log:
        subprocess.run(command, check=True, env=environment, stdout=log, stderr=subprocess.STDOUT)


def test_table(runs: Path, names: list[str], seeds: list[int]) -> list[str]:
    """Held-out loss of each experiment and seed, in Markdown."""
    metrics = [read_json(runs / f"eval-{seed}" / "metrics.json") for seed in seeds]
    lines = ["| | held-out loss by seed | minus the demo's | loss gap closed |", "|---|---|---|---|"]
    for name in ("base", "lora", *names):
        loss = [one["methods"][name]["denoising_loss"]["value"] for one in metrics]
        more = [one["differences"].get(f"{name}-lofa", {}).get("denoising_loss") for one in metrics]
        closed = [one["gap_closed"].get(name) for one in metrics]
        cells = (
            " ".join(f"{value:.4f}" for value in loss),
            ", ".join(f"{d['value']:+.4f} [{d['low']:+.4f}, {d['high']:+.4f}]" for d in more if d),
            " ".join(f"{share['value']:.0%}" for share in closed if share),
        )
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def validation_table(runs: Path, names: list[str], seeds: list[int]) -> list[str]:
    """Validation metrics of each experiment and seed, in Markdown."""
    lines = [
        "| | denoising loss by seed | minus the demo's | response cosine by seed |",
        "|---|---|---|---|",
    ]
    metrics = {(n, s): read_json(run_of(runs, n, s, 2) / "run.json")["metrics"] for n in names for s in seeds}
    for name in names:
        loss = [metrics[name, seed]["val/denoising"] for seed in seeds]
        more = [value - metrics["lofa", seed]["val/denoising"] for value, seed in zip(loss, seeds, strict=True)]
        cosine = [metrics[name, seed]["val/response_cosine"] for seed in seeds]
        cells = (
            " ".join(f"{value:.4f}" for value in loss),
            " ".join(f"{value:+.4f}" for value in more),
            " ".join(f"{value:.3f}" for value in cosine),
        )
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    main()
