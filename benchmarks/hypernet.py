"""The hypernetworks against the published scheme written out naively: latency, training steps, the losses' memory.

    python benchmarks/hypernet.py                       # 2 layers of 1536 x 1536, published size; minutes on a CPU
    python benchmarks/hypernet.py --size tiny --backbone tiny-wan       # tiny-wan's 32 layers and networks
    python benchmarks/hypernet.py --device cuda --layers 240 --dtype bfloat16 --backbone wan2.1-t2v-1.3b

Every contender runs in this process, in turn, `--repeats` times after a warm round; printed are medians and ratios to
the naive scheme, which runs the same parameters as the published code does: the condition of 512 tokens (40 of them
real) is copied to every layer, projected and read there in full; everything is computed for every prompt; stage I's
heads and S are computed and thrown away; losses hold whole matrices. "through a file" adds a compressed .npz of stage
I's tokens between the stages. Weights are random, which costs what trained ones cost. With `--backbone` the training
step of stage II also goes through that backbone carrying the prediction, alike for both: built at random from its
configuration, or, where that has no architecture, loaded.
"""

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lofa.adapters import LoraBatch, merge_batches
from lofa.backbones import bare_backbone, load_backbone, read_config
from lofa.conditions import Condition
from lofa.files import write_json
from lofa.hypernets import (
    AdapterConfig,
    AdapterNet,
    FrozenLayer,
    Prepared,
    Response,
    ResponseConfig,
    ResponseNet,
    compile_blocks,
)
from lofa.hypernets.layers import prepare
from lofa.interop.config import ReferenceConfig
from lofa.interop.reference import ReferenceAdapterNet, ReferenceResponseNet
from lofa.training import delta_loss, response_loss

TOKENS, REAL = 512, 40
CLIP = (5, 16, 16)
"""Latents (T, H, W) of a clip in stage II's whole step: 17 frames of 128 x 128 pixels."""
SIZES: dict[str, dict[str, Any]] = {
    "true": {"context_dim": 4096, "in_dim": 1536, "input_size": 1536, "patch_size": 96},
    "tiny": {
        "context_dim": 64,
        "in_dim": 96,
        "input_size": 96,
        "patch_size": 48,
        "d_model": 96,
        "n_heads": 4,
        "n_blocks": 3,
        "lora_rank": 4,
        "num_depth": 4,
        "cross_attn_idxs": [0, 2],
    },
}
LAYERS = {"true": 2, "tiny": 32}


@dataclass
class Job:
    """Networks of the published architecture, ours in the cached design, and what they are given."""

    first: ReferenceResponseNet
    second: ReferenceAdapterNet
    cached: tuple[ResponseNet, AdapterNet]
    W: Tensor
    depth: Tensor
    kind: Tensor
    texts: Tensor
    """(P, 512, C), zero from token 40 on"""

    @classmethod
    def make(cls, size: str, layers: int, prompts: int, device: str, dtype: torch.dtype) -> "Job":
        torch.manual_seed(0)
        values = SIZES[size] | {"gradient_checkpointing": False}
        shared = {key: value for key, value in values.items() if key != "cross_attn_idxs"}
        config = ReferenceConfig.read(2, values)
        with torch.device(device):
            first = ReferenceResponseNet(ReferenceConfig.read(1, shared)).to(dtype)
            second = ReferenceAdapterNet(config).to(dtype)
            ours: dict[str, Any] = {
                "shapes": [[config.in_dim, config.in_dim]],
                "num_depths": config.num_depth,
                "num_kinds": config.num_type,
                "context_width": config.context_dim,
                "patch_size": config.patch_size,
                "d_model": config.d_model,
                "n_heads": config.n_heads,
                "n_blocks": config.n_blocks,
                "lora_rank": config.lora_rank,
                "condition_from": config.n_blocks - 1,
            }
            ours |= {"response_width": config.d_model, "read_after": (config.n_blocks - 1,)}
            cached = (
                ResponseNet(ResponseConfig.pick(ours)).to(dtype),
                AdapterNet(AdapterConfig.pick(ours)).to(dtype),
            )
            W = torch.randn(layers, config.in_dim, config.in_dim, dtype=dtype) * 0.02
            texts = torch.randn(prompts, TOKENS, config.context_dim, dtype=dtype)
            texts[:, REAL:] = 0
            number = torch.arange(layers)
        for net in (first, second, *cached):
            net.requires_grad_(False)
        return cls(first, second, cached, W, number % config.num_depth, number % config.num_type, texts)

    def prepared(self, *networks: Any) -> list[Prepared]:
        """What each network makes of the weights."""
        ids = zip(self.W, self.depth.tolist(), self.kind.tolist(), strict=True)
        made = prepare(networks, (FrozenLayer(str(number), *own) for number, own in enumerate(ids)))
        return [one for (one,) in made]


def naive_tokens(
    net: ReferenceResponseNet | ReferenceAdapterNet, job: Job, texts: Tensor, response: Tensor | None = None
) -> Tensor:
    """Final tokens (P * L, T, d) for texts (P, N, C) as the published code computes them: every prompt and layer from
    the weights on, with its own copy of the condition."""
    c, prompts, layers = net.config, len(texts), len(job.W)
    W, depth, kind = job.W.repeat(prompts, 1, 1), job.depth.repeat(prompts), job.kind.repeat(prompts)
    tiles = net.pos(net.patch_embed(W / (W.square().mean(1, keepdim=True) + 1e-6).sqrt()))
    x = tiles + (net.depth_embed(depth) + net.type_embed(kind))[:, None]
    x = torch.cat([net.cls_token.expand(len(W), -1, -1), x], 1)[:, None]
    context = net.text_proj(texts.repeat_interleave(layers, 0))
    for i, block in enumerate(net.blocks):
        x = net.run(block, x, context)
        if isinstance(net, ReferenceAdapterNet) and i in c.cross_attn_idxs:
            assert response is not None
            x = net.run(net.cross_attn_blocks[str(i)], x, response[:, None])
    return net.norm(x)[:, 0]


def naive_adapter(job: Job, text: Tensor, through: Path | None = None) -> Tensor:
    """alpha * B (L, out, r) and A joined as delta_w's factors: one prompt through both stages."""
    tokens = naive_tokens(job.first, job, text[None])
    _, A, B = job.first._decode(tokens)
    F.softplus(B @ A)
    if through is not None:
        np.savez_compressed(through, tokens=tokens.float().cpu().numpy())
        with np.load(through) as file:
            tokens = torch.from_numpy(file["tokens"]).to(job.W)
    h, A, B = job.second._decode(naive_tokens(job.second, job, text[None], tokens))
    alpha = F.softplus(job.second.head_alpha(h))[..., None]
    return (alpha * B)[:1] @ A[:1]


def exact_adapter(job: Job, prepared: Sequence[Prepared], texts: Tensor) -> Tensor:
    """The same numbers: the weights' part kept, one key for the padding, no heads in stage I."""
    lengths = torch.full((len(texts),), texts.shape[1], device=texts.device)
    tokens = job.first.tokens(prepared[0], texts, lengths)
    made = job.second.adapt(prepared[1], texts, lengths, tokens)
    return (made.alpha[..., None, None] * made.B)[:1, 0] @ made.A[:1, 0]


def cached_adapter(job: Job, prepared: Sequence[Prepared], texts: Tensor) -> Tensor:
    """The cached design: the last block alone reads the condition."""
    lengths = torch.full((len(texts),), REAL, device=texts.device)
    tokens = job.cached[0].tokens(prepared[0], texts, lengths)
    made = job.cached[1].adapt(prepared[1], texts, lengths, tokens)
    return made.B[:1, 0] @ made.A[:1, 0]


def medians(contenders: Mapping[str, Callable[[], object]], repeats: int, device: str) -> dict[str, float]:
    """Median seconds of each, run in turn, after one warm round."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats + 1):
        for name, run in contenders.items():
            begun = time.perf_counter()
            run()
            if device != "cpu":
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_bytes(run: Callable[[], object], device: str) -> int:
    """The most memory that `run` held beyond what was there before it."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    run()  # what is kept from a first call (workspaces) is not the losses'
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    results = profile.profiler.kineto_results
    changes = sorted((event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]")
    return int(np.cumsum([change for _, change in changes]).max())


@dataclass
class Losses:
    """Leaf tensors of both losses at the job's size, and the losses dense and tile by tile."""

    response: Response
    prediction: LoraBatch
    truth: LoraBatch
    W: Tensor

    @classmethod
    def make(cls, job: Job, prompts: int = 1) -> "Losses":
        layers, out, width = job.W.shape
        rank = job.first.config.lora_rank

        def pair(scale: float, grad: bool) -> tuple[Tensor, Tensor]:
            A = torch.randn(prompts, layers, rank, width, device=job.W.device)
            B = scale * torch.randn(prompts, layers, out, rank, device=job.W.device)
            return A.requires_grad_(grad), B.requires_grad_(grad)

        alpha = torch.full((prompts, layers), 0.1, device=job.W.device)
        names = tuple(map(str, range(layers)))
        response = Response(job.W[:0], *pair(0.01, True), 0.02, 0.1, names)
        prediction, truth = (LoraBatch(*pair(0.01, grad), alpha, names) for grad in (True, False))
        return cls(response, prediction, truth, job.W.float())

    def dense_response(self) -> None:
        """Binary cross-entropy over whole matrices."""
        target = self.truth.delta_weight().abs() / (self.W.abs() + 1e-8) > self.response.tau
        F.binary_cross_entropy_with_logits(self.response.logits(), target.float()).backward()

    def tiled_response(self) -> None:
        """As training computes it."""
        response_loss([(self.response, list(self.W), self.truth)])[0].backward()

    def dense_delta(self) -> None:
        """L1 over whole matrices."""
        true = self.truth.delta_weight()
        ((self.prediction.delta_weight() - true).abs().mean() / true.abs().mean()).backward()

    def tiled_delta(self) -> None:
        """As training computes it."""
        delta_loss([(self.prediction, self.truth)]).mean().backward()


@dataclass
class Steps:
    """One optimiser step's forward and backward of either stage, without the backbone, naive and as training does it.

    Both sides recompute blocks in backward, as the published configuration does. Stage I's tokens are given.
    """

    job: Job
    losses: Losses
    tokens: Tensor
    """(P, L, T, d), without [CLS]"""
    ours: tuple[ResponseNet, AdapterNet]

    @classmethod
    def make(cls, job: Job) -> "Steps":
        prompts, config = len(job.texts), job.second.config
        values = asdict(job.cached[1].config) | {"condition_from": 0, "gradient_checkpointing": True}
        values |= {"read_after": config.cross_attn_idxs}
        ours = (
            ResponseNet(ResponseConfig.pick(values)).to(job.W),
            AdapterNet(AdapterConfig.pick(values)).to(job.W),
        )
        tiles = (config.input_size // config.patch_size) ** 2
        tokens = torch.randn(prompts, len(job.W), tiles, config.d_model).to(job.W)
        for net in (job.first, job.second):
            net.requires_grad_(True)
            net.config = replace(net.config, gradient_checkpointing=True)
        return cls(job, Losses.make(job, prompts), tokens, ours)

    def naive_first(self) -> None:
        """Whole matrices of every prompt and layer."""
        net, weight = self.job.first, self.losses.W
        _, A, B = net._decode(naive_tokens(net, self.job, self.job.texts))
        logits = (F.softplus(B @ A) - net.config.tau) / net.config.temperature
        target = self.losses.truth.delta_weight().abs() / (weight.abs() + 1e-8) > net.config.tau
        entropy = F.binary_cross_entropy_with_logits(logits, target.flatten(0, 1).to(logits))
        (entropy + 1e-4 * (A.square().mean() + B.square().mean())).backward()

    def naive_second(self) -> None:
        """Whole matrices of every prompt and layer."""
        net = self.job.second
        h, A, B = net._decode(naive_tokens(net, self.job, self.job.texts, self.tokens.flatten(0, 1)))
        delta = F.softplus(net.head_alpha(h))[..., None] * (B @ A)
        (delta - self.losses.truth.delta_weight().flatten(0, 1).to(delta)).abs().mean().backward()

    def ours_first(self) -> None:
        """Weights' part once for all prompts, condition once for all layers, loss tile by tile."""
        job = self.job
        response = self.ours[0].respond(job.prepared(self.ours[0])[0], job.texts, self._lengths)
        torch.stack(response_loss([(response, list(self.losses.W), self.losses.truth)])).sum().backward()

    def ours_second(self) -> None:
        """The same of stage II."""
        job = self.job
        made = self.ours[1].adapt(job.prepared(self.ours[1])[0], job.texts, self._lengths, self.tokens)
        delta_loss([(made, self.losses.truth)]).mean().backward()

    @property
    def _lengths(self) -> Tensor:
        return torch.full((len(self.job.texts),), REAL, device=self.job.W.device)


def steps(job: Job, repeats: int, device: str, backbone: str | None) -> dict[str, Any]:
    """Seconds and peak bytes of a training step of each stage."""
    made = Steps.make(job)
    runs = {
        "stage I, naive": made.naive_first,
        "stage I": made.ours_first,
        "stage II, naive": made.naive_second,
        "stage II": made.ours_second,
    }
    if backbone is not None:
        whole = WholeStep(made, backbone, device)
        runs |= {"stage II with backbone, naive": whole.naive, "stage II with backbone": whole.ours}
    seconds = medians(runs, repeats, device)
    peak = {name: peak_bytes(run, device) for name, run in runs.items()}
    ratios = {
        stage: {
            "times_as_fast": seconds[f"{stage}, naive"] / seconds[stage],
            "times_less_memory": peak[f"{stage}, naive"] / peak[stage],
        }
        for stage in runs
        if not stage.endswith("naive")
    }
    return {"seconds": seconds, "peak_bytes": peak, "ratios": ratios}


def operations(config: ReferenceConfig, layers: int, real: bool) -> float:
    """Operations (2 a multiply-add) of the matrix products of both stages for one prompt, heads of stage II included.

    `real`: as `exact_adapter` does them; otherwise as the naive scheme.
    """
    d, T, r = config.d_model, (config.input_size // config.patch_size) ** 2 + 1, config.lora_rank
    N = REAL + 1 if real else TOKENS
    copies = 1 if real else layers
    hidden = 2 * config.mlp_ratio * d * d
    own, read = T * (4 * d * d + hidden) + 2 * T * T * d, T * (2 * d * d + hidden) + 2 * T * N * d
    condition = copies * N * (config.context_dim * d + config.n_blocks * 2 * d * d)
    blocks = config.n_blocks * (own + read) - (own if real else 0)
    tiles = 0 if real else T * config.patch_size**2 * d
    heads = 2 * d * r * config.in_dim
    again = len(config.cross_attn_idxs) * (T * (4 * d * d + hidden) + 2 * T * T * d)
    wasted = 0 if real else heads + r * config.in_dim**2
    return 2 * (2 * (layers * (blocks + tiles) + condition) + layers * (heads + again + wasted))


def matmul_rate(device: str, dtype: torch.dtype, side: int = 2048) -> float:
    """Operations a second of a large square product."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / medians({"product": lambda: a @ b}, 5, device)["product"]


class WholeStep:
    """Stage II's step through the backbone: L1 and 10 x denoising loss of the prompts' clips, naive and ours."""

    def __init__(self, made: Steps, name: str, device: str) -> None:
        config, self.made = read_config(name), made
        backbone = bare_backbone(config, device) if config.architecture else load_backbone(name, device)
        self.backbone, count, layers = backbone, len(made.job.texts), len(made.job.W)
        self.names = [layer.name for layer in backbone.layers[:layers]]
        self.latents = torch.randn(count, backbone.latent_channels, *CLIP)
        tokens = torch.randn(count, REAL, backbone.condition_width)
        self.condition = Condition(tokens, torch.full((count,), REAL))
        self.noise, self.level = torch.randn_like(self.latents), torch.full((count,), 0.5)

    def _denoising(self, A: Tensor, B: Tensor, alpha: Tensor) -> Tensor:
        """Of A (P, L, r, in), B (P, L, out, r), alpha (P, L)."""
        pairs = merge_batches([LoraBatch(A.float(), B.float(), alpha.float(), tuple(self.names))])
        losses = self.backbone.denoising_loss(self.latents, self.condition, pairs, self.level, noise=self.noise)
        return 10 * losses.mean()

    def naive(self) -> None:
        """Whole matrices of every prompt and layer."""
        made, net = self.made, self.made.job.second
        h, A, B = net._decode(naive_tokens(net, made.job, made.job.texts, made.tokens.flatten(0, 1)))
        alpha = F.softplus(net.head_alpha(h))
        delta = alpha[..., None] * (B @ A)
        distance = (delta - made.losses.truth.delta_weight().flatten(0, 1).to(delta)).abs().mean()
        A, B, alpha = (value.unflatten(0, (len(made.job.texts), -1)) for value in (A, B, alpha[:, 0]))
        (distance + self._denoising(A, B, alpha)).backward()

    def ours(self) -> None:
        """As training does it."""
        made, job = self.made, self.made.job
        said = made.ours[1].adapt(job.prepared(made.ours[1])[0], job.texts, made._lengths, made.tokens)
        loss = delta_loss([(said, made.losses.truth)]).mean() + self._denoising(said.A, said.B, said.alpha)
        loss.backward()


@torch.no_grad()
def latency(job: Job, repeats: int, device: str, compile: bool) -> dict[str, Any]:
    """Seconds from prompt tokens to one prompt's adapter, and a prompt of several at once."""
    prepared, cached = job.prepared(job.first, job.second), job.prepared(*job.cached)
    one, count = job.texts[:1], len(job.texts)
    expected, got = naive_adapter(job, one[0]), exact_adapter(job, prepared, one)
    fast = job
    if compile:
        fast = replace(job, first=copy.deepcopy(job.first), second=copy.deepcopy(job.second))
        compile_blocks(fast.first)
        compile_blocks(fast.second)
    with tempfile.TemporaryDirectory() as folder:
        through = Path(folder) / "tokens.npz"
        seconds = medians(
            {
                "naive": lambda: naive_adapter(job, one[0]),
                "naive, through a file": lambda: naive_adapter(job, one[0], through),
                "exact": lambda: exact_adapter(job, prepared, one),
                **({"exact, compiled": lambda: exact_adapter(fast, prepared, one)} if compile else {}),
                "exact, a prompt of many": lambda: exact_adapter(job, prepared, job.texts),
                "cached": lambda: cached_adapter(job, cached, one),
                "cached, a prompt of many": lambda: cached_adapter(job, cached, job.texts),
            },
            repeats,
            device,
        )
    for name in seconds:
        if name.endswith("of many"):
            seconds[name] /= count
    rate = matmul_rate(device, job.W.dtype)
    limits = {
        name: operations(job.second.config, len(job.W), real) / rate
        for name, real in (("naive", False), ("exact", True))
    }
    return {
        "seconds": seconds,
        "ratio_to_naive": {name: seconds["naive"] / value for name, value in seconds.items()},
        "relative_difference": float((got - expected).abs().max() / expected.abs().max()),
        "matmul_rate": rate,
        "seconds_at_matmul_rate": limits,
        "share_of_matmul_rate": {name: limit / seconds[name] for name, limit in limits.items()},
    }


def losses(job: Job, repeats: int, device: str) -> dict[str, Any]:
    """Seconds and peak bytes of both losses, forward and backward, dense and tile by tile."""
    leaves = Losses.make(job)
    runs = {
        "response, dense": leaves.dense_response,
        "response, tiled": leaves.tiled_response,
        "delta, dense": leaves.dense_delta,
        "delta, tiled": leaves.tiled_delta,
    }
    seconds = medians(runs, repeats, device)
    peak = {name: peak_bytes(run, device) for name, run in runs.items()}
    saved = {name: peak[f"{name}, dense"] / peak[f"{name}, tiled"] for name in ("response", "delta")}
    return {"seconds": seconds, "peak_bytes": peak, "times_less_memory": saved}


def main() -> None:
    """Runs every part and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=tuple(SIZES), default="true")
    parser.add_argument("--layers", type=int, help="adapted layers; default 2 at the true size, 32 at the tiny one")
    parser.add_argument("--prompts", type=int, default=8, help="prompts at once")
    parser.add_argument("--step-prompts", type=int, default=2, help="prompts of a training step")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--backbone", help="of stage II's whole step, a name of conf/backbone; none: without that step")
    parser.add_argument("--compile", action="store_true", help="time the exact way under torch.compile as well")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--out", type=Path, help="json file for the figures")
    given = parser.parse_args()
    if given.device != "cpu" and not torch.cuda.is_available():
        print(f"--device {given.device}: no GPU here, nothing measured")
        return

    torch.set_num_threads(given.threads)
    layers = given.layers or LAYERS[given.size]
    job = Job.make(given.size, layers, given.prompts, given.device, getattr(torch, given.dtype))
    figures = {
        "settings": {key: str(value) for key, value in vars(given).items()} | {"layers": layers},
        "latency": latency(job, given.repeats, given.device, given.compile),
        "losses": losses(job, given.repeats, given.device),
        "steps": steps(
            replace(job, texts=job.texts[: given.step_prompts]), given.repeats, given.device, given.backbone
        ),
    }
    _print(figures)
    if given.out:
        write_json(given.out, figures)


def _print(figures: dict[str, Any]) -> None:
    table = Table(title="prompt tokens to adapter, both stages")
    for name in ("", "ms", "times as fast"):
        table.add_column(name, justify="right" if name else "left")
    for name, seconds in figures["latency"]["seconds"].items():
        table.add_row(name, f"{1e3 * seconds:.1f}", f"{figures['latency']['ratio_to_naive'][name]:.2f}")
    Console().print(table)
    print(json.dumps({key: value for key, value in figures["latency"].items() if key != "seconds"}, indent=2))
    print(json.dumps({part: figures[part] for part in ("losses", "steps")}, indent=2))


if __name__ == "__main__":
    main()
