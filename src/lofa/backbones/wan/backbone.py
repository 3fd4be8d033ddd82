"""Wan 2.1 and 2.2 text-to-video on diffusers' own classes.

Latents are /8 in height and width and /4 in time, normalised by the VAE's mean and deviation. The transformer always
sees `max_prompt_tokens` condition tokens: it has no mask, and a zero token is not nothing to it.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lofa.adapters import AdapterBatch
from lofa.adapters.families.wan import WAN
from lofa.backbones.base import Backbone, OnStep, Sampling, Side
from lofa.backbones.fingerprint import fingerprint_of_0_1
from lofa.backbones.networks import LayerSpec
from lofa.backbones.sampler import sample
from lofa.backbones.wan.architecture import ATTENTION_KINDS, Architecture, wan_layers
from lofa.conditions import Condition
from lofa.diffusion import FlowMatching
from lofa.errors import BackboneError

if TYPE_CHECKING:  # diffusers and transformers take seconds to import, and stage I needs neither
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
    from diffusers.pipelines.wan.pipeline_wan import WanPipeline
    from transformers import UMT5EncoderModel

__all__ = ["WanBackbone"]

_MAX_TOKENS = 512  # WanPipeline's default, where the tokenizer doesn't say
_SHIFT = 5.0  # LoFA's training shift (the published code), where the scheduler doesn't say
_ONE_AT_A_TIME = Lock()  # diffusers' VAE keeps features between frames in itself, a fast tokenizer its padding
_DECODE_ROWS = 8  # clips decoded at once: the decoder's activations are the largest of all


class WanBackbone(Backbone):
    """A model of WanPipeline's parts as backbone."""

    pipelines = ("WanPipeline",)
    default_kinds = ATTENTION_KINDS
    sampling = Sampling(frames=81, height=480, width=832, steps=50, guidance=5.0, fps=16.0)  # WanPipeline's defaults

    def _layer_table(self, kinds: Sequence[str]) -> list[LayerSpec]:
        index = self.source.index
        there = [component for component in WAN.components if (index.get(component) or [None, None])[1]]
        if not there:
            raise BackboneError(f"{self.name}: its model index or architecture names no {next(iter(WAN.components))}")
        self._architectures = {component: Architecture.of(self.source.config(component)) for component in there}
        self._own = self._architectures[there[0]]
        return wan_layers(self._architectures, kinds)

    # -- parts -----------------------------------------------------------------------------------------------------

    def _open_denoiser(self) -> Mapping[str, nn.Module]:
        from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

        return {name: self.source.load(name, WanTransformer3DModel, dtype=self.dtype) for name in self._architectures}

    def _open_autoencoder(self) -> "AutoencoderKLWan":
        from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

        return self.source.load("vae", AutoencoderKLWan, dtype=torch.float32)

    def _open_text_encoder(self) -> "UMT5EncoderModel":
        from transformers import UMT5EncoderModel

        return self.source.load("text_encoder", UMT5EncoderModel, dtype=self.dtype)

    @property
    def tokenizer(self) -> Any:
        """What cuts prompts into tokens."""
        return self._part("tokenizer", lambda: self._load_named("tokenizer"))

    @property
    def pipeline(self) -> "WanPipeline":
        """All parts as diffusers' pipeline, for what diffusers alone does with them."""
        return self._part("pipeline", self._make_pipeline)

    def _make_pipeline(self) -> "WanPipeline":
        from diffusers.pipelines.wan.pipeline_wan import WanPipeline

        pipeline = WanPipeline(
            tokenizer=self.tokenizer,
            text_encoder=self.text_encoder,
            vae=self.autoencoder,
            scheduler=self.scheduler,
            boundary_ratio=self.source.index.get("boundary_ratio"),
            expand_timesteps=bool(self.source.index.get("expand_timesteps")),
            **dict(self.denoiser),
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    # -- from the configurations alone -----------------------------------------------------------------------------

    @property
    def architecture(self) -> Mapping[str, Mapping[str, Any]]:
        return {component: vars(values) for component, values in self._architectures.items()}

    @cached_property
    def _fingerprint_of_0_1(self) -> str | None:
        with suppress(BackboneError):
            networks = dict(self.denoiser if self.has("denoiser") else self._open_denoiser())
            return fingerprint_of_0_1(networks | {"vae": self.autoencoder, "text_encoder": self.text_encoder})
        return None

    @property
    def latent_channels(self) -> int:
        return self._own.in_channels

    @property
    def condition_width(self) -> int:
        return self._own.text_dim

    @cached_property
    def max_prompt_tokens(self) -> int:
        return min(int(self.source.config("tokenizer").get("model_max_length", _MAX_TOKENS)), _MAX_TOKENS)

    @cached_property
    def process(self) -> FlowMatching:
        config = self.source.config("scheduler")
        return FlowMatching(float(config.get("shift") or config.get("flow_shift") or _SHIFT))

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """As in `Backbone`; WanPipeline cuts frames silently and refuses sizes that are no multiples of 16."""
        config = self.source.config("vae")
        time, space = config.get("scale_factor_temporal", 4), config.get("scale_factor_spatial", 8)
        _, patch_height, patch_width = self._own.patch_size
        factors = [max(16, space * patch) for patch in (patch_height, patch_width)]
        if frames < 1 or frames % time != 1 or height % factors[0] or width % factors[1] or min(height, width) < 1:
            raise BackboneError(
                f"{self.name} takes {time}k + 1 frames, heights in steps of {factors[0]} and widths in steps of "
                f"{factors[1]}; got {frames} frames of {height} x {width}"
            )
        return self.latent_channels, (frames - 1) // time + 1, height // space, width // space

    # -- conditions and latents ------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_prompt(self, prompts: list[str]) -> Condition:
        from diffusers.pipelines.wan.pipeline_wan import prompt_clean

        if not prompts:
            raise ValueError("no prompts to encode")
        longest, cleaned = self.max_prompt_tokens, [prompt_clean(prompt) for prompt in prompts]
        with _ONE_AT_A_TIME:
            inputs = self.tokenizer(cleaned, padding="max_length", max_length=longest, verbose=False)
        lengths = [sum(mask) for mask in inputs.attention_mask]
        self._check_lengths(prompts, lengths)
        inputs = inputs.convert_to_tensors("pt").to(self.device)
        tokens = self.text_encoder(inputs.input_ids, inputs.attention_mask).last_hidden_state
        tokens = tokens.masked_fill(inputs.attention_mask[..., None] == 0, 0)
        return Condition(tokens[:, : max(lengths)], torch.tensor(lengths, device=self.device))

    @torch.no_grad()
    def encode_video(self, clips: Tensor) -> Tensor:
        vae = self.autoencoder
        self._check_clips(clips)
        pixels = clips.to(vae.device).permute(0, 4, 1, 2, 3).to(vae.dtype) / 127.5 - 1
        mean, std = self._latent_statistics()
        with _ONE_AT_A_TIME:
            latents = [(vae.encode(part).latent_dist.mode() - mean) / std for part in pixels.split(_DECODE_ROWS)]
        return torch.cat(latents).float()

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        vae = self.autoencoder
        mean, std = self._latent_statistics()
        clips = []
        for part in latents.to(vae.device, vae.dtype).split(_DECODE_ROWS):
            with _ONE_AT_A_TIME:
                pixels = vae.decode(part * std + mean).sample.float()
            clips.append(((pixels + 1) * 127.5).clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 4, 1))
        return torch.cat(clips).contiguous()

    def _latent_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation (C, 1, 1, 1) of the VAE's latents."""
        vae = self.autoencoder
        values = torch.tensor([vae.config.latents_mean, vae.config.latents_std], device=vae.device, dtype=vae.dtype)
        return values[0].view(-1, 1, 1, 1), values[1].view(-1, 1, 1, 1)

    # -- denoising -------------------------------------------------------------------------------------------------

    def predict(self, x_t: Tensor, level: Tensor, condition: Condition, batch: AdapterBatch, rows: Tensor) -> Tensor:
        tokens = self._padded(condition).expand(x_t.shape[0], -1, -1)
        return self._denoise(x_t, self.process.timestep(level), tokens, batch, rows)

    def _sample(
        self, noise: Tensor, sides: list[Side], batch: AdapterBatch, sampling: Sampling, on_step: OnStep | None
    ) -> Tensor:
        per_token = bool(self.source.index.get("expand_timesteps"))

        def side(condition: Condition, rows: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
            tokens = self._padded(condition).expand(len(noise), -1, -1)
            return partial(self._denoise, tokens=tokens, batch=batch, rows=rows, per_token=per_token)

        return sample(self.scheduler, [side(*one) for one in sides], noise, sampling.steps, sampling.guidance, on_step)

    def _denoise(
        self, x_t: Tensor, t: Tensor, tokens: Tensor, batch: AdapterBatch, rows: Tensor, per_token: bool = False
    ) -> Tensor:
        """Velocity at timesteps (B,), each row by the expert of its timestep; `per_token` as Wan 2.2 of 5 B samples."""
        boundary, networks = self.source.index.get("boundary_ratio"), list(self.denoiser.values())
        expert = 0
        if boundary is not None and len(networks) > 1:
            low = t.cpu() < boundary * self.process.steps
            if low.any() and not low.all():
                velocity = torch.empty_like(x_t)
                for chosen in (~low, low):
                    part = self._denoise(x_t[chosen], t[chosen], tokens[chosen], batch, rows.cpu()[chosen], per_token)
                    places = chosen.nonzero()[:, 0].to(velocity.device)
                    velocity = velocity.index_put((places,), part.to(velocity.dtype))
                return velocity
            expert = int(low.any())
        if per_token:
            frames, height, width = x_t.shape[2:]
            t = t[:, None].expand(-1, frames * -(-height // 2) * -(-width // 2))
        with self.slots.attached(batch, rows):
            output: Tensor = networks[expert](x_t.to(self.dtype), t, tokens, return_dict=False)[0]
        return output

    def _padded(self, condition: Condition) -> Tensor:
        """Condition tokens padded with zeros to the length WanPipeline gives, (B, max_prompt_tokens, C)."""
        missing = self.max_prompt_tokens - condition.tokens.shape[1]
        if missing < 0 or condition.tokens.shape[2] != self.condition_width:
            raise BackboneError(
                f"{self.name} takes conditions of at most {self.max_prompt_tokens} tokens of width "
                f"{self.condition_width}, got {tuple(condition.tokens.shape)}: they were encoded for another backbone"
            )
        return nn.functional.pad(condition.tokens.to(self.device, self.dtype), (0, 0, 0, missing))
