"""Wan 2.1 and 2.2 text-to-video on diffusers' own classes.

Latents are /8 in height and width and /4 in time, normalised by the VAE's mean and deviation. The transformer always
sees `max_prompt_tokens` condition tokens: it has no mask, and a zero token is not nothing to it.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from textwrap import shorten
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lofa.adapters import AdapterBatch
from lofa.backbones.base import Backbone, OnStep, Sampling
from lofa.backbones.fingerprint import fingerprint_of_0_1
from lofa.backbones.source import Source
from lofa.backbones.wan.architecture import ATTENTION_KINDS, Architecture, wan_layers
from lofa.backbones.wan.sampler import sample
from lofa.conditions import Condition
from lofa.diffusion import FlowMatching, seeded_noise
from lofa.errors import BackboneError

if TYPE_CHECKING:  # diffusers and transformers take seconds to import, and stage I needs neither
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
    from diffusers.pipelines.wan.pipeline_wan import WanPipeline

__all__ = ["WAN_SAMPLING", "WanBackbone"]

WAN_SAMPLING = Sampling(frames=81, height=480, width=832, steps=50, guidance=5.0, fps=16.0)
"""The defaults of diffusers' WanPipeline."""

_COMPONENTS = ("transformer", "transformer_2")
_MAX_TOKENS = 512  # WanPipeline's default, where the tokenizer doesn't say
_SHIFT = 5.0  # LoFA's training shift (the published code), where the scheduler doesn't say
_ONE_AT_A_TIME = Lock()  # diffusers' VAE keeps features between frames in itself, a fast tokenizer its padding
_DECODE_ROWS = 8  # clips decoded at once: the decoder's activations are the largest of all


class WanBackbone(Backbone):
    """A model of WanPipeline's parts as backbone.

    Args:
        name: what it was loaded as
        source: where its parts come from
        kinds: layer kinds to adapt
        sampling: defaults of `generate`
        dtype: precision of transformers and text encoder; the VAE stays in float32
        device: where its parts are put
    """

    def __init__(
        self,
        name: str,
        source: Source,
        kinds: Sequence[str] = ATTENTION_KINDS,
        sampling: Sampling = WAN_SAMPLING,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        there = [component for component in _COMPONENTS if (source.index.get(component) or [None, None])[1]]
        self._architectures = {component: Architecture.of(source.config(component)) for component in there}
        if not there:
            raise BackboneError(f"{name}: its model index or architecture names no {_COMPONENTS[0]}")
        super().__init__(name, source, wan_layers(self._architectures, kinds), sampling, dtype, device)
        self._own = self._architectures[there[0]]

    # -- parts -----------------------------------------------------------------------------------------------------

    def _open_denoiser(self) -> Mapping[str, nn.Module]:
        from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

        return {name: self.source.load(name, WanTransformer3DModel, dtype=self.dtype) for name in self._architectures}

    def _open_autoencoder(self) -> "AutoencoderKLWan":
        from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

        return self.source.load("vae", AutoencoderKLWan, dtype=torch.float32)

    def _open_text_encoder(self) -> nn.Module:
        from transformers import UMT5EncoderModel

        network: nn.Module = self.source.load("text_encoder", UMT5EncoderModel, dtype=self.dtype)
        return network

    @property
    def tokenizer(self) -> Any:
        """What cuts prompts into tokens."""
        return self._part("tokenizer", lambda: self.source.load("tokenizer", self._named("tokenizer")))

    @property
    def scheduler(self) -> Any:
        """The scheduler that the model is sampled with."""
        return self._part("scheduler", lambda: self.source.load("scheduler", self._named("scheduler")))

    def _named(self, component: str) -> Any:
        """The class of a component that has no weights, as model_index.json names it."""
        import diffusers
        import transformers

        libraries: dict[str, tuple[Any, type]] = {
            "diffusers": (diffusers, diffusers.SchedulerMixin),
            "transformers": (transformers, transformers.PreTrainedTokenizerBase),
        }
        library, name = self.source.index.get(component) or (None, None)
        module, base = libraries.get(str(library), (None, object))
        kind = getattr(module, str(name), None)
        if not isinstance(kind, type) or not issubclass(kind, base):
            raise BackboneError(f"{self.name}: its {component} is a {library} {name}, which is not known here")
        return kind

    @property
    def pipeline(self) -> "WanPipeline":
        """All parts as diffusers' pipeline, for what diffusers alone does with them."""
        return self._part("pipeline", self._make_pipeline)

    def _make_pipeline(self) -> "WanPipeline":
        from diffusers.pipelines.wan.pipeline_wan import WanPipeline

        networks = {component: self.denoiser[component] for component in self._architectures}
        pipeline = WanPipeline(
            tokenizer=self.tokenizer,
            text_encoder=self.text_encoder,
            vae=self.autoencoder,
            scheduler=self.scheduler,
            boundary_ratio=self.source.index.get("boundary_ratio"),
            expand_timesteps=bool(self.source.index.get("expand_timesteps")),
            **networks,
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
            lengths = [len(self.tokenizer(text, truncation=False, verbose=False).input_ids) for text in cleaned]
        for prompt, length in zip(prompts, lengths, strict=True):
            if length > longest:
                raise BackboneError(
                    f"the prompt {shorten(prompt, 60, placeholder='...')!r} has {length} tokens, {self.name} takes at "
                    f"most {longest}: shorten it"
                )
        with _ONE_AT_A_TIME:
            inputs = self.tokenizer(cleaned, padding="max_length", max_length=longest, return_tensors="pt")
        inputs = inputs.to(self.device)
        tokens = self.text_encoder(inputs.input_ids, inputs.attention_mask).last_hidden_state
        tokens = tokens.masked_fill(inputs.attention_mask[..., None] == 0, 0)
        return Condition(tokens[:, : max(lengths)], torch.tensor(lengths, device=self.device))

    @torch.no_grad()
    def encode_video(self, clips: Tensor) -> Tensor:
        vae = self.autoencoder
        if clips.ndim != 5 or clips.shape[-1] != 3 or clips.dtype != torch.uint8:
            raise ValueError(f"clips must be uint8 (B, T, H, W, 3), got {clips.dtype} {tuple(clips.shape)}")
        self.latent_shape(*clips.shape[1:4])
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
        boundary, networks = self.source.index.get("boundary_ratio"), list(self.denoiser.values())
        if boundary is None or len(networks) == 1:
            with self.slots.attached(batch, rows):
                return self._denoise(networks[0], x_t, level, tokens)
        predicted, on_cpu = torch.empty_like(x_t), level.cpu()
        for chosen, model in zip((on_cpu >= boundary, on_cpu < boundary), networks, strict=True):
            if chosen.any():
                with self.slots.attached(batch, rows.cpu()[chosen]):
                    part = self._denoise(model, x_t[chosen], level[chosen], tokens[chosen])
                places = chosen.nonzero()[:, 0].to(predicted.device)
                predicted = predicted.index_put((places,), part.to(predicted.dtype))
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
        self,
        prompts: list[str],
        negative_prompt: str,
        batch: AdapterBatch,
        rows: tuple[Tensor, Tensor],
        seeds: list[int],
        sampling: Sampling,
        on_step: OnStep | None,
    ) -> Tensor:
        noise = seeded_noise(seeds, self.latent_shape(sampling.frames, sampling.height, sampling.width)).to(self.device)
        tokens = [self._padded(self.encode_prompt(prompts))]
        if sampling.guidance > 1:
            tokens.append(self._padded(self.encode_prompt([negative_prompt])).expand(tokens[0].shape))
        sides = [partial(self._side, own, batch, of_rows) for own, of_rows in zip(tokens, rows, strict=False)]
        return sample(self.scheduler, sides, noise, sampling.steps, sampling.guidance, on_step)

    def _side(self, tokens: Tensor, batch: AdapterBatch, rows: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Velocity of all rows at one of the scheduler's timesteps (), by the expert that diffusers' pipeline takes."""
        boundary, networks = self.source.index.get("boundary_ratio"), list(self.denoiser.values())
        high = boundary is None or t >= boundary * self.scheduler.config.num_train_timesteps
        timestep = t.expand(len(x_t))
        if self.source.index.get("expand_timesteps"):  # Wan 2.2 of 5 B takes one for each token
            frames, height, width = x_t.shape[2:]
            timestep = t.expand(len(x_t), frames * -(-height // 2) * -(-width // 2))
        with self.slots.attached(batch, rows):
            velocity: Tensor = networks[0 if high else -1](x_t.to(self.dtype), timestep, tokens, return_dict=False)[0]
        return velocity
