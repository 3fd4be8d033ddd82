"""What every backbone offers: its adapted layers, its conditions and latents, its loss and its sampler.

A backbone is a frozen diffusers model in parts, each made when it is first asked for: a denoiser whose adapted linear
layers stand in slots (`lofa.adapters.Slots`), so that a batch can carry one adapter a row; an autoencoder; a text
encoder; and the diffusion process that the denoiser was trained on. It never trains: gradients flow through it to the
adapters only.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from textwrap import shorten
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from lofa.adapters import Adapter, AdapterBatch, LowRankBatch, own_rows
from lofa.backbones.networks import Adapters, SlottedNetworks
from lofa.conditions import Condition
from lofa.diffusion import DiffusionProcess, seeded_noise
from lofa.errors import BackboneError

__all__ = ["Backbone", "OnStep", "Sampling", "Side"]

OnStep = Callable[[int, int, Tensor], None]
"""Called after each denoising step with (steps done, steps in all, latents (B, C, T, H, W))."""

Side = tuple[Condition, Tensor]
"""One side of guidance: the condition of B rows (or of one for all), and the adapter of each row (B,)."""


@dataclass(frozen=True)
class Sampling:
    """How a backbone samples where nothing else is asked: size of a clip, steps, guidance scale, frames a second."""

    frames: int
    height: int
    width: int
    steps: int
    guidance: float
    fps: float


class Backbone(SlottedNetworks, ABC):
    """A frozen generator with slots for adapters. A model family is a subclass, and a line of `FAMILIES`."""

    pipelines: ClassVar[tuple[str, ...]]
    """names of diffusers' pipeline classes whose models are of the family"""
    sampling: Sampling
    """defaults of `generate`: the family's, or those that lie beside the model"""

    # -- parts -----------------------------------------------------------------------------------------------------

    @property
    def autoencoder(self) -> Any:
        """The network between clips and latents (BackboneError: its files are missing or damaged)."""
        return self._part("autoencoder", self._open_autoencoder)

    @property
    def text_encoder(self) -> Any:
        """The network that reads prompts (BackboneError: its files are missing or damaged)."""
        return self._part("text_encoder", self._open_text_encoder)

    @property
    def scheduler(self) -> Any:
        """The scheduler that the model is sampled with."""
        return self._part("scheduler", lambda: self._load_named("scheduler"))

    def _load_named(self, component: str) -> Any:
        """A component without weights, of the class that model_index.json names."""
        library, name = self.source.index.get(component) or ("", "")
        kind = getattr(import_module(library), name, None) if library in ("diffusers", "transformers") else None
        if not hasattr(kind, "from_pretrained"):
            raise BackboneError(f"{self.name}: its {component} is a {library} {name}, which is not known here")
        return self.source.load(component, kind)

    # -- what a family fills in ------------------------------------------------------------------------------------

    @abstractmethod
    def _open_autoencoder(self) -> nn.Module:
        """Loads the network between clips and latents."""

    @abstractmethod
    def _open_text_encoder(self) -> nn.Module:
        """Loads the network that reads prompts."""

    @abstractmethod
    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(C, T', h', w') of the latents of a clip (BackboneError: a size the model doesn't take)."""

    @property
    @abstractmethod
    def latent_channels(self) -> int:
        """C of the latents (B, C, T, H, W)."""

    @property
    @abstractmethod
    def condition_width(self) -> int:
        """C of the condition tokens (B, N, C)."""

    @property
    @abstractmethod
    def max_prompt_tokens(self) -> int:
        """The longest prompt the text encoder takes, in tokens, end mark included."""

    @property
    @abstractmethod
    def process(self) -> DiffusionProcess:
        """The diffusion process that its denoiser was trained on."""

    @abstractmethod
    def encode_prompt(self, prompts: list[str]) -> Condition:
        """Condition tokens (B, N, C), N the longest of them, padded with zeros.

        Raises:
            ValueError: no prompts.
            BackboneError: a prompt longer than `max_prompt_tokens`.
        """

    def _check_lengths(self, prompts: Sequence[str], lengths: Sequence[int]) -> None:
        """Refuses (BackboneError) a prompt of more tokens than the text encoder takes; `lengths` are theirs."""
        for prompt, length in zip(prompts, lengths, strict=True):
            if length > self.max_prompt_tokens:
                raise BackboneError(
                    f"the prompt {shorten(prompt, 60, placeholder='...')!r} has {length} tokens, {self.name} takes at "
                    f"most {self.max_prompt_tokens}: shorten it"
                )

    def _check_clips(self, clips: Tensor) -> None:
        """Refuses what are no clips (ValueError), or clips of a size that the model doesn't take (BackboneError)."""
        if clips.ndim != 5 or clips.shape[-1] != 3 or clips.dtype != torch.uint8:
            raise ValueError(f"clips must be uint8 (B, T, H, W, 3), got {clips.dtype} {tuple(clips.shape)}")
        self.latent_shape(*clips.shape[1:4])

    def encode_negative(self, prompt: str) -> Condition:
        """What guidance leads away from: one row."""
        return self.encode_prompt([prompt])

    @abstractmethod
    def encode_video(self, clips: Tensor) -> Tensor:
        """uint8 clips (B, T, H, W, 3) -> normalised latents (B, C, T', H', W'), the posterior's mean.

        Raises:
            BackboneError: a size the encoder doesn't take.
        """

    @abstractmethod
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Latents (B, C, T', H', W') -> uint8 clips (B, T, H, W, 3)."""

    @abstractmethod
    def predict(self, x_t: Tensor, level: Tensor, condition: Condition, batch: AdapterBatch, rows: Tensor) -> Tensor:
        """The denoiser's output (B, C, T, H, W), to be compared with `process.target`.

        Args:
            x_t: noisy latents (B, C, T, H, W)
            level: their noise levels (B,)
            condition: of B prompts, or of one for all
            batch, rows: adapters as in `Slots.attached`
        """

    @abstractmethod
    def _sample(
        self, noise: Tensor, sides: list[Side], batch: AdapterBatch, sampling: Sampling, on_step: OnStep | None
    ) -> Tensor:
        """Denoised latents (B, C, T, H, W) of noise of that shape.

        Args:
            noise: standard normal
            sides: the prompts' condition and rows of adapters; where there is guidance, then those it leads away from
            batch: the adapters
            sampling, on_step: as in `generate`
        """

    # -- loss and samples ------------------------------------------------------------------------------------------

    def denoising_loss(
        self,
        latents: Tensor,
        condition: Condition,
        adapters: Adapters = None,
        noise_level: Tensor | None = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Mean squared error of the denoiser on each sample, unweighted; differentiable in the adapters' tensors.

        Args:
            latents: (B, C, T, H, W) as `encode_video` gives them
            condition: of B prompts, or of one for all
            adapters: none, one for all, B of them, or a stack of N
            noise_level: (B,) in (0, 1); None draws one a sample from the training grid
            generator: for what is drawn here (levels first, then noise)
            noise: (B, C, T, H, W); None draws it
            rows: (B,) int64, the adapter of each sample; None where there is one for all or one for each

        Returns:
            (B,) float32
        """
        count = latents.shape[0]
        if len(condition) not in (1, count):
            raise ValueError(f"{count} latents need as many conditions (or one), got {len(condition)}")
        if noise_level is None:
            noise_level = self.process.draw_levels(count, generator)
        if noise is None:
            noise = torch.randn(latents.shape, generator=generator, device=generator.device if generator else "cpu")
        x_0 = latents.to(self.device, torch.float32)
        noise = noise.to(self.device, torch.float32)
        level = noise_level.to(self.device, torch.float32)
        x_t = self.process.add_noise(x_0, noise, level)
        batch = self.adapter_batch(adapters)
        predicted = self.predict(x_t, level, condition, batch, own_rows(batch, count) if rows is None else rows)
        return (predicted.float() - self.process.target(x_0, noise, level)).square().flatten(1).mean(1)

    @torch.no_grad()
    def generate(
        self,
        prompt: str | list[str],
        adapter: Adapter | Sequence[Adapter | None] | None = None,
        strength: float = 1.0,
        seed: int | Sequence[int] = 0,
        steps: int | None = None,
        guidance: float | None = None,
        frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        negative_prompt: str = "",
        negative_adapter: Adapter | None | Literal["same"] = "same",
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Samples clips.

        Args:
            prompt: one or B of them; one prompt with a list of adapters is sampled under each
            adapter: none, one for all, or one a row (None in the list: that row has none)
            strength: factor on the adapters' alpha
            seed: of each row, or one number: row i then has `seed + i`. A row's noise depends on its seed alone
            steps, guidance, frames, height, width: None takes the backbone's own (`sampling`)
            negative_prompt: what guidance leads away from
            negative_adapter: what the backbone carries there: "same" as under the prompt, another adapter, or none
            on_step: called after each denoising step with (steps done, steps in all, latents)

        Returns:
            uint8 (B, T, H, W, 3)

        Raises:
            ValueError: prompts, adapters and seeds of different numbers.
            BackboneError: a size or prompt the backbone doesn't take, or an adapter of another backbone.
        """
        adapters = [adapter] if adapter is None or isinstance(adapter, Adapter) else list(adapter)
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        count = max(len(prompts), len(adapters)) if prompts and adapters else 0
        seeds = [seed + i for i in range(count)] if isinstance(seed, int) else list(seed)
        if not count or len(prompts) not in (1, count) or len(adapters) not in (1, count) or len(seeds) != count:
            raise ValueError(
                f"{len(prompts)} prompts, {len(adapters)} adapters and {len(seeds)} seeds don't go together"
            )
        asked: dict[str, Any] = {
            "frames": frames,
            "height": height,
            "width": width,
            "steps": steps,
            "guidance": guidance,
        }
        sampling = replace(self.sampling, **{key: value for key, value in asked.items() if value is not None})
        if sampling.steps < 1:
            raise BackboneError(f"steps={steps}: sampling takes at least one step")
        rows = negative_rows = torch.arange(count) % len(adapters)
        if not isinstance(negative_adapter, str):
            negative_rows = torch.full_like(rows, len(adapters))
            adapters.append(negative_adapter)
        batch = self.adapter_batch(adapters)
        scaled = {name: LowRankBatch(pair.A, pair.B, pair.alpha * strength) for name, pair in batch.items()}
        noise = seeded_noise(seeds, self.latent_shape(sampling.frames, sampling.height, sampling.width))
        sides = [(self.encode_prompt(prompts * (count // len(prompts))), rows)]
        if sampling.guidance > 1:
            sides.append((self.encode_negative(negative_prompt), negative_rows))
        return self.decode_latents(self._sample(noise.to(self.device), sides, scaled, sampling, on_step))
