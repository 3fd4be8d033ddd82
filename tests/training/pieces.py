"""Small stand-ins: a backbone of a few linear layers, networks, and batches of adapters and latents."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lofa.adapters import Adapter, LoraBatch, LowRank, LowRankBatch, Slots, own_rows, stack_adapters
from lofa.backbones import LayerSpec, by_shape
from lofa.conditions import Condition, Inputs, Padded, TextEncoder
from lofa.data.sampler import BatchKey, BatchPlan, EndlessBatches
from lofa.diffusion import FlowMatching
from lofa.hypernets import AdapterConfig, AdapterNet, Part, ResponseConfig, ResponseNet, SingleStage, TwoStage
from lofa.training import AdapterModule, ResponseModule, warmup_schedule

WIDTH, RANK, CONTEXT, LATENT = 16, 2, 8, (2, 2, 2, 2)


class ToyBackbone:
    """Two blocks of two linear layers with slots, behaving as a backbone does where training and prediction look.

    `mixed`: a wide layer and one back again besides, so that there are three shapes.
    """

    name, fingerprint, condition_width, device = "toy", "toy-fingerprint", CONTEXT, torch.device("cpu")
    process, dtype = FlowMatching(5.0), torch.float32

    def __init__(self, mixed: bool = False) -> None:
        generator = torch.Generator().manual_seed(5)
        sizes = {"to_q": (WIDTH, WIDTH), "to_k": (WIDTH, WIDTH)}
        sizes |= {"up": (2 * WIDTH, WIDTH), "down": (WIDTH, 2 * WIDTH)} if mixed else {}
        self.kinds = tuple(sizes)
        self.layers = tuple(
            LayerSpec(f"transformer.blocks.{d}.{kind}", d, kind, *sizes[kind]) for d in range(2) for kind in self.kinds
        )
        self.depth_ids = torch.tensor([layer.depth for layer in self.layers])
        self.kind_ids = torch.tensor([self.kinds.index(layer.kind) for layer in self.layers])
        self.net = nn.Sequential(*(nn.Linear(y.in_features, y.out_features) for y in self.layers))
        self.denoiser = self.net.requires_grad_(False)
        for parameter in self.net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / WIDTH**0.5)
        self.slots = Slots(self.net, {layer.name: str(i) for i, layer in enumerate(self.layers)})

    def weight(self, name: str) -> Tensor:
        return self.net[[layer.name for layer in self.layers].index(name)].weight.detach()

    def weights(self, names: tuple[str, ...]) -> Tensor:
        return torch.stack([self.weight(name) for name in names])

    def accepts(self, fingerprint: str) -> bool:
        return fingerprint == self.fingerprint

    def to(self, device: torch.device | str) -> "ToyBackbone":
        self.net.to(device)
        return self

    def encode_prompt(self, prompts: list[str]) -> Condition:
        return Condition.from_rows([words(prompt) for prompt in prompts])

    def denoising_loss(
        self,
        latents: Tensor,
        condition: Condition,
        adapters: dict[str, LowRankBatch] | None,
        noise_level: Tensor,
        noise: Tensor,
        rows: Tensor | None = None,
    ) -> Tensor:
        sigma = noise_level[:, None, None, None, None]
        x = ((1 - sigma) * latents + sigma * noise).flatten(1)
        steer = condition.tokens.sum(1).repeat(1, WIDTH // CONTEXT)
        batch = adapters or {}
        with self.slots.attached(batch, own_rows(batch, len(latents)) if rows is None else rows):
            for spec, layer in zip(self.layers, self.net, strict=True):
                if spec.kind == "up":
                    wide = torch.tanh(layer(x[:, None]))
                elif spec.kind == "down":
                    x = x + layer(wide)[:, 0]
                else:
                    x = x + torch.tanh(layer(x[:, None])[:, 0] + steer)
        return (x - (noise - latents).flatten(1)).square().mean(1)

    def generate(self, prompt: str, adapter: list[Adapter | None], seed: list[int]) -> Tensor:
        generators = [torch.Generator().manual_seed(number) for number in seed]
        return torch.stack([torch.randint(0, 255, (3, 8, 8, 3), generator=g, dtype=torch.uint8) for g in generators])


def words(prompt: str) -> Tensor:
    """A fixed random token for each word."""
    rows = [
        torch.randn(CONTEXT, generator=torch.Generator().manual_seed(sum(word.encode()))) for word in prompt.split()
    ]
    return torch.stack(rows)


@dataclass
class ToyBatch:
    ids: list[str]
    inputs: Inputs
    prompt: Condition
    latents: Tensor | None
    stacks: list[LoraBatch]

    def to(self, device: torch.device, **_: bool) -> "ToyBatch":
        assert device.type == "cpu"
        return self


def captions(count: int) -> list[str]:
    verbs, limbs = ("waves", "swings", "lifts"), ("arm", "leg", "left arm", "right leg")
    return [f"a figure {verbs[i % 3]} the {limbs[i % 4]}" for i in range(count)]


def batch_of(rows: list[int], backbone: ToyBackbone, latents: bool = True) -> ToyBatch:
    """The batch of these samples; a sample's adapter and latents depend on its index alone."""
    adapters, clips = [], []
    for row in rows:
        generator = torch.Generator().manual_seed(100 + row)
        draw = partial(torch.randn, generator=generator)
        adapters.append(
            Adapter(
                {
                    y.name: LowRank(draw(RANK, y.in_features), 0.02 * draw(y.out_features, RANK), 0.5)
                    for y in backbone.layers
                }
            )
        )
        clips.append(draw(*LATENT))
    stacked = stack_adapters(adapters)
    prompt = backbone.encode_prompt([captions(row + 1)[row] for row in rows])
    return ToyBatch(
        ids=[f"s{row}" for row in rows],
        inputs={"text": Padded(prompt.tokens, prompt.lengths)},
        prompt=prompt,
        latents=torch.stack(clips) if latents else None,
        stacks=[
            LoraBatch.stack(stacked, [backbone.layers[i].name for i in indices])
            for indices in by_shape(backbone.layers).values()
        ],
    )


class Rows(Dataset[int]):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return index


def loader(backbone: ToyBackbone, count: int, batch_size: int, latents: bool = True) -> DataLoader[ToyBatch]:
    return DataLoader(
        Rows(count), batch_size=batch_size, collate_fn=partial(batch_of, backbone=backbone, latents=latents)
    )


class Keyed(Dataset[ToyBatch]):
    """Batches by the keys of a plan."""

    def __init__(self, backbone: ToyBackbone, first: int = 0) -> None:
        self.backbone, self.first = backbone, first

    def __getitem__(self, key: BatchKey) -> ToyBatch:
        return batch_of([self.first + item for item in key.items], self.backbone)


class ToyData(LightningDataModule):
    """Six training samples in batches of two, three samples to validate with; in the order of the real data module."""

    def __init__(self, backbone: ToyBackbone) -> None:
        super().__init__()
        self.backbone = backbone

    def train_dataloader(self) -> DataLoader[ToyBatch]:
        start = self.trainer.global_step * self.trainer.accumulate_grad_batches
        keys = EndlessBatches(BatchPlan([0] * 6, 2, seed=3), start)
        return DataLoader(Keyed(self.backbone), sampler=keys, batch_size=None)

    def val_dataloader(self) -> DataLoader[ToyBatch]:
        keys = BatchPlan([0] * 3, 2, shuffle=False).epoch(0)
        return DataLoader(Keyed(self.backbone, first=20), sampler=keys, batch_size=None)


SIZES = {"patch_size": 8, "d_model": 16, "n_heads": 2, "n_blocks": 2, "lora_rank": RANK}


def sizes(backbone: ToyBackbone) -> dict[str, Any]:
    facts = {"shapes": list(by_shape(backbone.layers)), "num_depths": 2, "num_kinds": len(backbone.kinds)}
    return SIZES | facts | {"context_width": CONTEXT}


def parts(backbone: ToyBackbone, seed: int = 0) -> tuple[Part, Part]:
    """Small parts of both stages, with heads whose product is not zero."""
    torch.manual_seed(seed)
    response = ResponseNet(ResponseConfig(**sizes(backbone)))
    adapter = AdapterNet(AdapterConfig(**sizes(backbone), response_width=16, read_after=(0,)))
    for network in (response, adapter):
        for head in network.head.B.values():
            nn.init.normal_(head.weight, std=0.05)
    return Part(response, TextEncoder(width=CONTEXT)), Part(adapter, TextEncoder(width=CONTEXT))


def single_stage(backbone: ToyBackbone) -> SingleStage:
    torch.manual_seed(0)
    made = SingleStage.fresh(2, sizes(backbone), TextEncoder(width=CONTEXT), {})
    for head in made.trained.network.head.B.values():
        nn.init.normal_(head.weight, std=0.05)
    return made


def _options(options: dict[str, object]) -> dict[str, Any]:
    optimizer = partial(torch.optim.AdamW, lr=1e-2)
    scheduler = partial(warmup_schedule, warmup=2)
    return {"optimizer": optimizer, "scheduler": scheduler, "diagnostics_every": 2} | options


def response_module(backbone: ToyBackbone, **options: object) -> ResponseModule:
    return ResponseModule(TwoStage(response=parts(backbone)[0]), backbone, **_options(options))


def adapter_module(backbone: ToyBackbone, **options: object) -> AdapterModule:
    response, adapter = parts(backbone)
    return AdapterModule(TwoStage(response=response, adapter=adapter), backbone, **_options(options))
