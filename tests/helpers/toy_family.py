"""A model family in one file: blocks of two linear layers a token, to be named by one line of the table."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lofa.adapters import AdapterBatch
from lofa.backbones import Backbone, LayerSpec, Sampling
from lofa.conditions import Condition
from lofa.diffusion import FlowMatching

BLOCKS, CHANNELS, WIDTH, TEXT = 2, 3, 12, 5


class ToyNetwork(nn.Module):
    """x + mix(tanh(steer(condition) + x)), block by block, on each place of the latents."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(CHANNELS, WIDTH), nn.Linear(WIDTH, CHANNELS)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"mix": nn.Linear(WIDTH, WIDTH), "steer": nn.Linear(TEXT, WIDTH)}) for _ in range(BLOCKS)
        )

    @classmethod
    def from_pretrained(cls, path: str, subfolder: str, dtype: torch.dtype, local_files_only: bool) -> Self:
        network = cls()
        network.load_state_dict(load_file(Path(path, subfolder, "diffusion_pytorch_model.safetensors")))
        return network.to(dtype)

    def forward(self, x: Tensor, level: Tensor, tokens: Tensor) -> Tensor:
        h = self.enter(x.movedim(1, -1).flatten(1, -2)) + level.view(-1, 1, 1)
        for block in self.blocks:
            h = h + block["mix"](torch.tanh(block["steer"](tokens).mean(1, keepdim=True) + h))
        return self.leave(h).movedim(-1, 1).reshape(x.shape)


class ToyBackbone(Backbone):
    """Latents are the pixels, tokens are letters."""

    pipelines, default_kinds, sampling = ("ToyPipeline",), ("mix", "steer"), Sampling(2, 4, 4, 2, 1.0, 8.0)
    latent_channels, condition_width, max_prompt_tokens, process = CHANNELS, TEXT, 40, FlowMatching(2.0)

    def _layer_table(self, kinds: Sequence[str]) -> list[LayerSpec]:
        sizes = {"mix": (WIDTH, WIDTH), "steer": (WIDTH, TEXT)}
        return [LayerSpec(f"unet.blocks.{d}.{kind}", d, kind, *sizes[kind]) for d in range(BLOCKS) for kind in kinds]

    def _open_denoiser(self) -> Mapping[str, nn.Module]:
        return {"unet": self.source.load("unet", ToyNetwork, dtype=self.dtype)}

    def _open_autoencoder(self) -> nn.Module:
        return nn.Identity()

    def _open_text_encoder(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Embedding(256, TEXT)

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        return CHANNELS, frames, height, width

    def encode_prompt(self, prompts: list[str]) -> Condition:
        letters = [torch.tensor(list(prompt.encode() or b" "), device=self.device) for prompt in prompts]
        return Condition.from_rows([self.text_encoder(row) for row in letters])

    def encode_video(self, clips: Tensor) -> Tensor:
        return clips.movedim(-1, 1) / 127.5 - 1

    def decode_latents(self, latents: Tensor) -> Tensor:
        return ((latents.movedim(1, -1) + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)

    def predict(self, x_t: Tensor, level: Tensor, condition: Condition, batch: AdapterBatch, rows: Tensor) -> Tensor:
        with self.slots.attached(batch, rows):
            predicted: Tensor = self.denoiser["unet"](x_t, level, condition.tokens.expand(len(x_t), -1, -1))
        return predicted

    def _sample(self, *args: Any) -> Tensor:
        raise NotImplementedError


def make_toy(folder: Path) -> Path:
    """Writes a model of the family."""
    torch.manual_seed(0)
    (folder / "unet").mkdir(parents=True)
    save_file(ToyNetwork().state_dict(), folder / "unet" / "diffusion_pytorch_model.safetensors")
    (folder / "unet" / "config.json").write_text(json.dumps({"_class_name": "ToyNetwork", "blocks": BLOCKS}))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "ToyPipeline", "unet": ["toys", "ToyNetwork"]}))
    return folder
