"""SDXL through diffusers: a UNet, its autoencoder, two text encoders and its noise schedule. An image is a clip of one
frame."""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from lofa.adapters import AdapterBatch
from lofa.backbones.base import Backbone, OnStep, Sampling, Side
from lofa.backbones.networks import LayerSpec
from lofa.backbones.sampler import sample
from lofa.backbones.sdxl.architecture import ATTENTION_KINDS, unet_layers
from lofa.conditions import Condition
from lofa.diffusion import Ddpm
from lofa.errors import BackboneError

__all__ = ["SdxlBackbone"]

POOLED = "pooled"
"""Extra of a condition: the second text encoder's vector of the whole prompt, (B, P)."""

_ONE_AT_A_TIME = Lock()  # a fast tokenizer keeps its padding in itself
_IMAGES_AT_ONCE = 8  # the autoencoder's activations are the largest of all


class SdxlBackbone(Backbone):
    """A model of StableDiffusionXLPipeline's parts as backbone.

    Every one of a prompt's tokens counts, padding too: the encoders write into it, and the UNet was trained on it.
    """

    pipelines = ("StableDiffusionXLPipeline",)
    default_kinds = ATTENTION_KINDS
    sampling = Sampling(frames=1, height=1024, width=1024, steps=50, guidance=5.0, fps=1.0)  # the pipeline's defaults

    def _layer_table(self, kinds: Sequence[str]) -> list[LayerSpec]:
        return unet_layers(self.source.config("unet"), kinds)

    # -- parts -----------------------------------------------------------------------------------------------------

    def _open_denoiser(self) -> Mapping[str, nn.Module]:
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        return {"unet": self.source.load("unet", UNet2DConditionModel, dtype=self.dtype)}

    def _open_autoencoder(self) -> nn.Module:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        network: nn.Module = self.source.load("vae", AutoencoderKL, dtype=torch.float32)  # half precision overflows
        return network

    def _open_text_encoder(self) -> nn.Module:
        from transformers import CLIPTextModel, CLIPTextModelWithProjection

        first = self.source.load("text_encoder", CLIPTextModel, dtype=self.dtype)
        second = self.source.load("text_encoder_2", CLIPTextModelWithProjection, dtype=self.dtype)
        return nn.ModuleList([first, second])

    @property
    def tokenizers(self) -> Sequence[Any]:
        """What cuts prompts into tokens, for each of the text encoders."""
        names = ("tokenizer", "tokenizer_2")
        return [self._part(name, partial(self._load_named, name)) for name in names]

    # -- from the configurations alone -----------------------------------------------------------------------------

    @property
    def latent_channels(self) -> int:
        return int(self.source.config("unet")["in_channels"])

    @property
    def condition_width(self) -> int:
        return int(self.source.config("unet")["cross_attention_dim"])

    @property
    def max_prompt_tokens(self) -> int:
        return int(self.source.config("tokenizer").get("model_max_length", 77))

    @cached_property
    def process(self) -> Ddpm:
        try:
            return Ddpm(self.source.config("scheduler"))
        except ValueError as error:
            raise BackboneError(f"{self.name}: {error}") from None

    @cached_property
    def _factor(self) -> int:
        """Pixels of a latent, a side."""
        return int(2 ** (len(self.source.config("vae")["block_out_channels"]) - 1))

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        unit = self._factor * 2 ** (len(self.source.config("unet")["block_out_channels"]) - 1)
        if frames != 1 or height % unit or width % unit or min(height, width) < 1:
            raise BackboneError(
                f"{self.name} makes images: one frame, heights and widths in steps of {unit}; got {frames} frames of "
                f"{height} x {width}"
            )
        return self.latent_channels, 1, height // self._factor, width // self._factor

    # -- conditions and latents ------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_prompt(self, prompts: list[str]) -> Condition:
        if not prompts:
            raise ValueError("no prompts to encode")
        encoded = []
        for tokenizer, encoder in zip(self.tokenizers, self.text_encoder, strict=True):
            with _ONE_AT_A_TIME:
                inputs = tokenizer(prompts, padding="max_length", max_length=self.max_prompt_tokens, verbose=False)
            self._check_lengths(prompts, [len(ids) for ids in inputs.input_ids])
            encoded.append(encoder(torch.tensor(inputs.input_ids, device=self.device), output_hidden_states=True))
        tokens = torch.cat([one.hidden_states[-2] for one in encoded], dim=-1)
        pooled = encoded[1].text_embeds  # the second one's projection of the end mark
        lengths = torch.full((len(prompts),), self.max_prompt_tokens, device=self.device)
        return Condition(tokens, lengths, {POOLED: pooled})

    def encode_negative(self, prompt: str) -> Condition:
        """As in `Backbone`; of no words zeros, as diffusers' pipeline has it where the model says so."""
        encoded = self.encode_prompt([prompt])
        if prompt or not self.source.index.get("force_zeros_for_empty_prompt", True):
            return encoded
        zeros = {name: torch.zeros_like(value) for name, value in encoded.extras.items()}
        return Condition(torch.zeros_like(encoded.tokens), encoded.lengths, zeros)

    @torch.no_grad()
    def encode_video(self, clips: Tensor) -> Tensor:
        vae = self.autoencoder
        self._check_clips(clips)
        pixels = clips[:, 0].to(vae.device).permute(0, 3, 1, 2).to(vae.dtype) / 127.5 - 1
        parts = [vae.encode(part).latent_dist.mode() for part in pixels.split(_IMAGES_AT_ONCE)]
        return (torch.cat(parts) * vae.config.scaling_factor).float().unsqueeze(2)

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        vae = self.autoencoder
        scaled = latents[:, :, 0].to(vae.device, vae.dtype) / vae.config.scaling_factor
        pixels = torch.cat([vae.decode(part).sample.float() for part in scaled.split(_IMAGES_AT_ONCE)])
        images = ((pixels + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)
        return images.permute(0, 2, 3, 1).unsqueeze(1).contiguous()

    # -- denoising -------------------------------------------------------------------------------------------------

    def predict(self, x_t: Tensor, level: Tensor, condition: Condition, batch: AdapterBatch, rows: Tensor) -> Tensor:
        return self._denoise(x_t, self.process.timestep(level), condition, batch, rows)

    def _denoise(self, x_t: Tensor, t: Tensor, condition: Condition, batch: AdapterBatch, rows: Tensor) -> Tensor:
        """The UNet's output (B, C, 1, H, W). The image it is told of is the latents' own: whole, uncropped."""
        if POOLED not in condition.extras or condition.tokens.shape[2] != self.condition_width:
            raise BackboneError(
                f"{self.name} takes conditions of width {self.condition_width} with a pooled vector, got "
                f"{tuple(condition.tokens.shape)} with {', '.join(condition.extras) or 'nothing'}: they were encoded "
                "for another backbone"
            )
        count, size = len(x_t), [side * self._factor for side in x_t.shape[-2:]]
        tokens = condition.tokens.to(self.device, self.dtype).expand(count, -1, -1)
        added = {
            "text_embeds": condition.extras[POOLED].to(self.device, self.dtype).expand(count, -1),
            "time_ids": torch.tensor([[*size, 0, 0, *size]], device=self.device, dtype=self.dtype).expand(count, -1),
        }
        with self.slots.attached(batch, rows):
            made: Tensor = self.denoiser["unet"](
                x_t[:, :, 0].to(self.dtype), t, tokens, added_cond_kwargs=added, return_dict=False
            )[0]
        return made.unsqueeze(2)

    def _sample(
        self, noise: Tensor, sides: list[Side], batch: AdapterBatch, sampling: Sampling, on_step: OnStep | None
    ) -> Tensor:
        denoisers = [partial(self._denoise, condition=own, batch=batch, rows=rows) for own, rows in sides]
        return sample(self.scheduler, denoisers, noise, sampling.steps, sampling.guidance, on_step)
