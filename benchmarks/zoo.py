"""LoRAs an hour: many at once through the slots against one at a time with PEFT, over the number trained at once.

    python benchmarks/zoo.py                          # tiny-wan, 1 to 32 at once, about 5 minutes on two cores
    python benchmarks/zoo.py --steps 60 --out benchmarks/results/zoo.json
    python benchmarks/zoo.py --at-once 16 --loras 16  # one point, 16 LoRAs on both sides

Both sides train the same LoRAs: same backbone and clips, same A at the start, same clips, noise levels and noise in
every step, same AdamW (fused), learning rates, clipping, steps, clips a step and threads. PEFT trains `--loras` of them
one by one; its model is prepared once and not counted. The slots train as many, or one batch where that is more, and
their time counts their measurements before and after. Expected: a ratio of at least 1.8 from 16 at once on, and final
losses (same fixed levels and noise) of the LoRAs that both trained within 2 %. The ratio counts wall time, so run it on
an otherwise idle machine; on a busy one use --threads 1 and read the ratio of CPU time.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor

from lofa.backbones import Backbone, load_backbone
from lofa.files import write_json
from lofa.worlds import SPLITS, sample_batch
from lofa.zoo import Clips, LoraJob, LoraOptions, train_loras
from lofa.zoo.pool import ClipPool, Probe
from lofa.zoo.stacked import StackedLoras
from lofa.zoo.stream import DrawStream


@dataclass(frozen=True)
class Outcome:
    """Final losses (one a LoRA), and wall and CPU seconds a LoRA (means)."""

    losses: list[float]
    wall: float
    cpu: float


def clock() -> np.ndarray:
    """Wall and CPU time of this process (2,), s."""
    return np.array([time.perf_counter(), time.process_time()])


def world_jobs(backbone: Backbone, count: int, clips: int) -> list[LoraJob]:
    """One job for each of `count` training actions of the world, of `clips` clips."""
    actions = sorted(name for name, split in SPLITS.items() if split == "train")
    jobs = []
    for index in range(count):
        action = actions[index % len(actions)]
        seeds = [1000 * index + i for i in range(clips)]
        made = sample_batch([action] * clips, seeds, backbone.sampling.frames, backbone.sampling.height)
        latents = backbone.encode_video(torch.from_numpy(np.stack([clip.frames for clip in made])))
        condition = backbone.encode_prompt([clip.caption for clip in made])
        jobs.append(LoraJob(f"{action}-{index}", Clips(latents, condition), seed=index))
    return jobs


def train_at_once(backbone: Backbone, jobs: Sequence[LoraJob], options: LoraOptions) -> Outcome:
    """All jobs through the slots, in batches."""
    begun = clock()
    results = train_loras(backbone, jobs, options)
    return Outcome([result.final_loss for result in results], *((clock() - begun) / len(jobs)).tolist())


class PeftTrainer:
    """Trains jobs one by one with PEFT's layers in the place of the slots."""

    def __init__(self, backbone: Backbone, options: LoraOptions) -> None:
        self.backbone, self.options = backbone, options
        backbone.slots.remove()
        kinds = "|".join(kind.replace(".", r"\.") for kind in backbone.kinds)
        config = LoraConfig(
            r=options.rank, lora_alpha=round(options.alpha * options.rank), target_modules=rf"blocks\.\d+\.({kinds})"
        )
        self.model = inject_adapter_in_model(config, backbone.denoiser["transformer"])
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.probe = Probe(backbone, options.probe_levels, options.clips_per_step)

    def _start(self) -> None:
        """A and B as the slots have them at the start."""
        seeds = [self.options.seed]
        loras = StackedLoras(
            self.backbone.layers, seeds, self.options.rank, self.options.alpha, self.backbone.device
        ).adapters()
        with torch.no_grad():
            for name, pair in loras.items():
                path = name.removeprefix("transformer.")
                self.model.get_parameter(f"{path}.lora_A.default.weight").copy_(pair.A[0])
                self.model.get_parameter(f"{path}.lora_B.default.weight").copy_(pair.B[0])

    def _loss(self, job: LoraJob, clips: Tensor, levels: Tensor, noise: Tensor) -> Tensor:
        latents, condition = job.clips.latents[clips], job.clips.condition[clips]
        return self.backbone.denoising_loss(latents, condition, noise_level=levels, noise=noise).mean()

    def train(self, job: LoraJob) -> tuple[float, np.ndarray]:
        """Final loss, measured as the slots' is, and wall and CPU seconds of the training alone."""
        self._start()
        options, shape, device = self.options, job.clips.latents.shape[1:], self.backbone.device
        begun = clock()
        optimizer = torch.optim.AdamW(self.parameters, weight_decay=options.weight_decay, fused=True)
        seeds = [options.seed + job.seed]
        process = self.backbone.process
        stream = DrawStream(seeds, [len(job.clips)], options.clips_per_step, shape, process, device)
        for step in range(options.steps):
            draw = stream.next()
            self._loss(job, draw.clips[0], draw.levels[0], draw.noise[0]).backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, options.clip_norm)
            optimizer.param_groups[0]["lr"] = options.learning_rate(step)
            optimizer.step()
            optimizer.zero_grad()
        seconds = clock() - begun
        return self.probe(ClipPool.of([job.clips], device), None).item(), seconds


def train_one_by_one(backbone: Backbone, jobs: Sequence[LoraJob], options: LoraOptions) -> Outcome:
    """Each job on its own with PEFT; `backbone` carries PEFT's layers afterwards."""
    trainer = PeftTrainer(backbone, options)
    trained = [trainer.train(job) for job in jobs]
    return Outcome([loss for loss, _ in trained], *np.mean([seconds for _, seconds in trained], axis=0).tolist())


def compare(at_once: Outcome, one_by_one: Outcome) -> dict[str, float]:
    """One point of the curve: speed, and how it compares with one at a time."""
    both = list(zip(at_once.losses, one_by_one.losses, strict=False))  # a batch may be more than PEFT trains
    return {
        "loras_per_hour": 3600 / at_once.wall,
        "ratio": one_by_one.wall / at_once.wall,
        "ratio_of_cpu_time": one_by_one.cpu / at_once.cpu,
        "largest_relative_difference_of_final_losses": max(abs(a - b) / b for a, b in both),
    }


def main() -> None:
    """Runs both sides and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="tiny-wan", help="name, folder or hub id")
    parser.add_argument("--loras", type=int, default=8, help="LoRAs that PEFT trains, and the slots at least")
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32], help="points of the curve")
    parser.add_argument("--steps", type=int, default=100, help="optimiser steps a LoRA")
    parser.add_argument("--clips", type=int, default=4, help="clips a LoRA has")
    parser.add_argument("--clips-per-step", type=int, default=2, help="clips of a LoRA in a step")
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of both sides")
    parser.add_argument("--out", type=Path, help="json file for the figures")
    given = parser.parse_args()

    torch.set_num_threads(given.threads)
    options = LoraOptions(rank=given.rank, steps=given.steps, clips_per_step=given.clips_per_step, lr=given.lr)
    backbone = load_backbone(given.backbone)
    jobs = world_jobs(backbone, max(given.loras, *given.at_once), given.clips)
    one_by_one = train_one_by_one(load_backbone(given.backbone), jobs[: given.loras], options)
    curve = {}
    for size in given.at_once:
        sized, asked = replace(options, batch=size), jobs[: max(given.loras, size)]
        train_loras(backbone, asked[:size], replace(sized, steps=2))  # warm
        curve[str(size)] = compare(train_at_once(backbone, asked, sized), one_by_one)
        print(f"{size} at once: {json.dumps(curve[str(size)])}", flush=True)
    figures = {
        "settings": {key: str(value) for key, value in vars(given).items()},
        "one_at_a_time_with_peft": {"loras_per_hour": 3600 / one_by_one.wall},
        "at_once_through_the_slots": curve,
    }
    print(json.dumps(figures, indent=2))
    if given.out:
        write_json(given.out, figures)


if __name__ == "__main__":
    main()
