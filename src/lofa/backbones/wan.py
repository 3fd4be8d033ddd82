"""Wan 2.1 and 2.2 text-to-video on diffusers' own classes.

Latents are /8 in height and width and /4 in time, normalised by the VAE's mean and deviation. The transformer always
sees `max_prompt_tokens` condition tokens: it has no mask, and a zero token is not nothing to it.
"""

from collections.abc import Sequence
from textwrap import shorten

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.pipelines.wan.pipeline_wan import WanPipeline, prompt_clean
from torch import Tensor, nn

from lofa.adapters import AdapterBatch
from lofa.adapters.families.wan import WAN
from lofa.adapters.names import join_name
from lofa.backbones.base import Backbone, Sampling
from lofa.backbones.networks import LayerSpec
from lofa.conditions import Condition
from lofa.diffusion import FlowMatching, seeded_noise
from lofa.errors import BackboneError

__all__ = ["ATTENTION_KINDS", "WAN_SAMPLING", "WanBackbone", "wan_layers"]

ATTENTION_KINDS = tuple(kind for kind in WAN.kinds if kind.startswith(("attn1.to_", "attn2.to_")))
"""The layers LoFA adapts: q, k, v, o of self- and cross-attention."""

WAN_SAMPLING = Sampling(frames=81, height=480, width=832, steps=50, guidance=5.0, fps=16.0)
"""The defaults of diffusers' WanPipeline."""

_COMPONENTS = ("transformer", "transformer_2")
_MAX_TOKENS = 512  # WanPipeline's default, where the tokenizer doesn't say
_SHIFT = 5.0  # LoFA's training shift (the published code), where the scheduler doesn't say
_DECODE_ROWS = 8  # clips decoded at once: the decoder's activations are the largest of all


def wan_layers(transformers: Sequence[tuple[str, WanTransformer3DModel]], kinds: Sequence[str]) -> list[LayerSpec]:
    """The layers of those kinds in (component, model) pairs, block by block; depth counts on through the models.

    Raises:
        BackboneError: a kind that Wan hasn't.
    """
    layers = []
    depth = 0
    for component, model in transformers:
        for index, block in enumerate(model.blocks):
            for kind in kinds:
                linear = dict(block.named_modules()).get(kind)
                if not isinstance(linear, nn.Linear):
                    raise BackboneError(f"backbone.kinds: no linear layer {kind!r}; there are {', '.join(WAN.kinds)}")
                name = join_name(component, WAN.layer_path(index, kind))
                layers.append(LayerSpec(name, depth, kind, linear.out_features, linear.in_features))
            depth += 1
    return layers


class WanBackbone(Backbone):
    """A `WanPipeline` as backbone.

    Args:
        name: what it was loaded as
        pipeline: with at least a transformer; prompts need its text encoder, clips its VAE
        kinds: layer kinds to adapt
        sampling: defaults of `generate`
    """

    pipeline: WanPipeline

    def __init__(
        self,
        name: str,
        pipeline: WanPipeline,
        kinds: Sequence[str] = ATTENTION_KINDS,
        sampling: Sampling = WAN_SAMPLING,
    ) -> None:
        self._transformers = [(c, m) for c in _COMPONENTS if (m := getattr(pipeline, c, None)) is not None]
        super().__init__(name, pipeline, wan_layers(self._transformers, kinds), sampling)
        self._config = self._transformers[0][1].config

    @property
    def latent_channels(self) -> int:
        return self._config.in_channels

    @property
    def condition_width(self) -> int:
        return self._config.text_dim

    @property
    def max_prompt_tokens(self) -> int:
        tokenizer = self.pipeline.tokenizer
        return _MAX_TOKENS if tokenizer is None else min(tokenizer.model_max_length, _MAX_TOKENS)

    @property
    def process(self) -> FlowMatching:
        config = self.pipeline.scheduler.config
        return FlowMatching(float(config.get("shift") or config.get("flow_shift") or _SHIFT))

    @torch.no_grad()
    def encode_prompt(self, prompts: list[str]) -> Condition:
        if not prompts:
            raise ValueError("no prompts to encode")
        tokenizer = self.pipeline.tokenizer
        lengths = [
            len(tokenizer(prompt_clean(prompt), truncation=False, verbose=False).input_ids) for prompt in prompts
        ]
        for prompt, length in zip(prompts, lengths, strict=True):
            if length > self.max_prompt_tokens:
                raise BackboneError(
                    f"the prompt {shorten(prompt, 60, placeholder='...')!r} has {length} tokens, {self.name} takes at "
                    f"most {self.max_prompt_tokens}: shorten it"
                )
        tokens, _ = self.pipeline.encode_prompt(
            prompts, do_classifier_free_guidance=False, max_sequence_length=self.max_prompt_tokens, device=self.device
        )
        return Condition(tokens[:, : max(lengths)], torch.tensor(lengths, device=tokens.device))

    @torch.no_grad()
    def encode_video(self, clips: Tensor) -> Tensor:
        vae = self.pipeline.vae
        if clips.ndim != 5 or clips.shape[-1] != 3 or clips.dtype != torch.uint8:
            raise ValueError(f"clips must be uint8 (B, T, H, W, 3), got {clips.dtype} {tuple(clips.shape)}")
        self._check_size(*clips.shape[1:4])
        pixels = clips.to(vae.device).permute(0, 4, 1, 2, 3).to(vae.dtype) / 127.5 - 1
        mean, std = self._latent_statistics()
        latents = [(vae.encode(part).latent_dist.mode() - mean) / std for part in pixels.split(_DECODE_ROWS)]
        return torch.cat(latents).float()

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        vae = self.pipeline.vae
        mean, std = self._latent_statistics()
        clips = []
        for part in latents.to(vae.device, vae.dtype).split(_DECODE_ROWS):
            pixels = vae.decode(part * std + mean).sample.float()
            clips.append(((pixels + 1) * 127.5).clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 4, 1))
        return torch.cat(clips).contiguous()

    def _latent_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation (C, 1, 1, 1) of the VAE's latents."""
        vae = self.pipeline.vae
        values = torch.tensor([vae.config.latents_mean, vae.config.latents_std], device=vae.device, dtype=vae.dtype)
        return values[0].view(-1, 1, 1, 1), values[1].view(-1, 1, 1, 1)

    def _check_size(self, frames: int, height: int, width: int) -> None:
        """WanPipeline cuts frames silently and refuses sizes that are no multiples of 16."""
        time_factor = self.pipeline.vae_scale_factor_temporal
        _, patch_height, patch_width = self._config.patch_size
        factors = [max(16, self.pipeline.vae_scale_factor_spatial * patch) for patch in (patch_height, patch_width)]
        if (
            frames < 1
            or frames % time_factor != 1
            or height % factors[0]
            or width % factors[1]
            or min(height, width) < 1
        ):
            raise BackboneError(
                f"{self.name} takes {time_factor}k + 1 frames, heights in steps of {factors[0]} and widths in steps of "
                f"{factors[1]}; got {frames} frames of {height} x {width}"
            )

    def predict(
        self, x_t: Tensor, level: Tensor, condition: Condition, batch: AdapterBatch, rows: Tensor | None
    ) -> Tensor:
        tokens = self._padded(condition).expand(x_t.shape[0], -1, -1)
        boundary = self.pipeline.config["boundary_ratio"]
        if boundary is None or len(self._transformers) == 1:
            with self.slots.attached(batch, rows):
                return self._denoise(self._transformers[0][1], x_t, level, tokens)
        if rows is None:
            count = len(next(iter(batch.values()))) if batch else 1
            rows = torch.arange(x_t.shape[0], device=x_t.device) * count // x_t.shape[0]
        predicted = torch.empty_like(x_t)
        for chosen, (_, model) in zip((level >= boundary, level < boundary), self._transformers, strict=True):
            if chosen.any():
                with self.slots.attached(batch, rows[chosen]):
                    part = self._denoise(model, x_t[chosen], level[chosen], tokens[chosen])
                predicted = predicted.index_put((chosen.nonzero()[:, 0],), part.to(predicted.dtype))
        return predicted

    def _denoise(self, model: nn.Module, x_t: Tensor, level: Tensor, tokens: Tensor) -> Tensor:
        velocity: Tensor = model(x_t.to(self.dtype), self.process.timestep(level), tokens, return_dict=False)[0]
        return velocity

    def _padded(self, condition: Condition) -> Tensor:
        """Condition tokens padded with zeros to the length WanPipeline gives, (B, max_prompt_tokens, C)."""
        missing = self.max_prompt_tokens - condition.tokens.shape[1]
        if missing < 0 or condition.tokens.shape[2] != self.condition_width:
            raise BackboneError(
                f"{self.name} takes conditions of at most {self.max_prompt_tokens} tokens of width "
                f"{self.condition_width}, got {tuple(condition.tokens.shape)}: they were encoded for another backbone"
            )
        return nn.functional.pad(condition.tokens.to(self.device, self.dtype), (0, 0, 0, missing))

    def _sample(
        self, prompts: list[str], negative_prompt: str, batch: AdapterBatch, seeds: list[int], sampling: Sampling
    ) -> Tensor:
        self._check_size(sampling.frames, sampling.height, sampling.width)
        shape = (
            self.latent_channels,
            (sampling.frames - 1) // self.pipeline.vae_scale_factor_temporal + 1,
            sampling.height // self.pipeline.vae_scale_factor_spatial,
            sampling.width // self.pipeline.vae_scale_factor_spatial,
        )
        noise = seeded_noise(seeds, shape)
        guided = sampling.guidance > 1
        tokens = self._padded(self.encode_prompt(prompts))
        negative = self._padded(self.encode_prompt([negative_prompt])).expand(tokens.shape) if guided else None
        with self.slots.attached(batch):
            latents: Tensor = self.pipeline(
                prompt_embeds=tokens,
                negative_prompt_embeds=negative,
                latents=noise,
                height=sampling.height,
                width=sampling.width,
                num_frames=sampling.frames,
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance,
                output_type="latent",
                return_dict=False,
            )[0]
        return latents

    def enable_gradient_checkpointing(self) -> None:
        for _, model in self._transformers:
            model.enable_gradient_checkpointing(self.slots.checkpoint)
