"""What every backbone offers: its adapted layers, its conditions and latents, its loss and its sampler.

A backbone is a frozen diffusers pipeline whose adapted linear layers stand in slots (`lofa.adapters.Slots`), so that
a batch can carry one adapter a row. It never trains: gradients flow through it to the adapters only.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from lofa.adapters import Adapter, AdapterBatch, LowRankBatch, Slots, stack_adapters
from lofa.backbones.noise import add_noise, draw_noise_levels, velocity_target
from lofa.conditions import Condition
from lofa.errors import BackboneError

__all__ = ["Adapters", "Backbone", "LayerSpec", "Sampling"]

Adapters = Adapter | Sequence[Adapter | None] | AdapterBatch | None
"""One adapter for the whole batch, one a row (or a group of rows), a stack of N, or none."""


@dataclass(frozen=True)
class LayerSpec:
    """An adapted linear layer.

    Attributes:
        name: pipeline component and module path, "transformer.blocks.0.attn1.to_q"
        depth: index of its block, counted on through the components
        kind: what it is in its block, "attn1.to_q"
        out_features: rows of its weight
        in_features: columns of its weight
    """

    name: str
    depth: int
    kind: str
    out_features: int
    in_features: int


@dataclass(frozen=True)
class Sampling:
    """How a backbone samples where nothing else is asked: size of a clip, steps, guidance scale, frames a second."""

    frames: int
    height: int
    width: int
    steps: int
    guidance: float
    fps: float


class Backbone(ABC):
    """A frozen generator with slots for adapters.

    Args:
        name: what it was loaded as
        pipeline: the diffusers pipeline; its modules are frozen and put in eval mode
        layers: the adapted layers
        sampling: defaults of `generate`

    Attributes:
        kinds: layer kinds, in the order that `kind_ids` counts
        slots: the installed slots of all layers
    """

    def __init__(self, name: str, pipeline: DiffusionPipeline, layers: Sequence[LayerSpec], sampling: Sampling) -> None:
        self.name = name
        self.pipeline = pipeline
        self.layers = tuple(layers)
        self.sampling = sampling
        self.kinds = tuple(dict.fromkeys(layer.kind for layer in self.layers))
        self._by_name = {layer.name: layer for layer in self.layers}
        self._networks = nn.ModuleDict({n: m for n, m in pipeline.components.items() if isinstance(m, nn.Module)})
        self._networks.requires_grad_(False).eval()
        self.slots = Slots(self._networks, {layer.name: layer.name for layer in self.layers})
        self.slots.install()
        pipeline.set_progress_bar_config(disable=True)

    # -- what a family fills in ------------------------------------------------------------------------------------

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
    def noise_shift(self) -> float:
        """Shift of the noise levels towards noise, from the scheduler's configuration."""

    @abstractmethod
    def encode_prompt(self, prompts: list[str]) -> Condition:
        """Condition tokens (B, N, C), N the longest of them, padded with zeros.

        Raises:
            ValueError: no prompts.
            BackboneError: a prompt longer than `max_prompt_tokens`.
        """

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
    def predict_velocity(
        self, x_t: Tensor, sigma: Tensor, condition: Condition, batch: AdapterBatch, rows: Tensor | None
    ) -> Tensor:
        """Velocity (B, C, T, H, W) of noisy latents at noise levels `sigma` (B,); adapters as in `Slots.attached`."""

    @abstractmethod
    def _sample(
        self, prompts: list[str], negative_prompt: str, batch: AdapterBatch, seeds: list[int], sampling: Sampling
    ) -> Tensor:
        """Denoised latents of each prompt, row i from the noise of `seeds[i]` under adapter i of `batch`."""

    @abstractmethod
    def enable_gradient_checkpointing(self) -> None:
        """Recomputes the activations of the blocks in the backward pass; adapters are attached again for it."""

    # -- layers ----------------------------------------------------------------------------------------------------

    def layer(self, name: str) -> LayerSpec:
        """The layer of that name (BackboneError if there is none)."""
        try:
            return self._by_name[name]
        except KeyError:
            raise BackboneError(
                f"{self.name} has no adapted layer {name!r}; it has {len(self.layers)}, "
                f"{self.layers[0].name} to {self.layers[-1].name}"
            ) from None

    def weight(self, name: str) -> Tensor:
        """W (out, in) of a layer, detached, not copied."""
        weight = self._networks.get_submodule(self.layer(name).name).weight
        if not isinstance(weight, Tensor):
            raise TypeError(f"{name} has no weight tensor")
        return weight.detach()

    def weights(self, names: Sequence[str] | None = None) -> Tensor:
        """W of several layers (all by default), stacked (L, out, in).

        Raises:
            ValueError: the layers are not all of one shape.
        """
        specs = self.layers if names is None else [self.layer(name) for name in names]
        shapes = sorted({(spec.out_features, spec.in_features) for spec in specs})
        if len(shapes) != 1:
            raise ValueError(f"layers of shapes {shapes} can't be stacked; choose layer kinds of one shape")
        return torch.stack([self.weight(spec.name) for spec in specs])

    @property
    def depth_ids(self) -> Tensor:
        """Depth of each layer (L,) int64."""
        return torch.tensor([layer.depth for layer in self.layers])

    @property
    def kind_ids(self) -> Tensor:
        """Index in `kinds` of each layer's kind (L,) int64."""
        return torch.tensor([self.kinds.index(layer.kind) for layer in self.layers])

    @property
    def num_depths(self) -> int:
        """Number of depths that `depth_ids` can hold."""
        return 1 + max(layer.depth for layer in self.layers)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of configurations and a weight sample: two backbones with the same one make interchangeable data."""
        digest = hashlib.sha256()
        for name, module in sorted(self._networks.items()):
            config = getattr(module, "config", None)
            if isinstance(config, Mapping):  # diffusers; a transformers configuration changes with the library
                kept = {key: value for key, value in config.items() if not key.startswith("_")}
                digest.update(json.dumps([name, kept], sort_keys=True, default=str).encode())
            for path, parameter in module.named_parameters():
                flat = parameter.detach().reshape(-1)
                sample = flat[:: max(1, flat.numel() // 4)][:4]
                digest.update(path.encode())
                if not sample.is_meta:
                    # bfloat16, so that loading in another precision doesn't make another backbone
                    digest.update(sample.to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
        return digest.hexdigest()[:16]

    # -- adapters --------------------------------------------------------------------------------------------------

    def adapter_batch(self, adapters: Adapters) -> dict[str, LowRankBatch]:
        """N adapters in one stack on this device (empty where there are none); None in a list is no adapter.

        Raises:
            BackboneError: an adapter for a layer this backbone hasn't, or of another size.
        """
        if adapters is None:
            return {}
        if isinstance(adapters, Adapter):
            adapters = [adapters]
        if not isinstance(adapters, Mapping):
            adapters = stack_adapters([{} if adapter is None else adapter for adapter in adapters])
        for name, pair in adapters.items():
            spec, found = self.layer(name), (pair.B.shape[1], pair.A.shape[2])
            if found != (spec.out_features, spec.in_features):
                raise BackboneError(
                    f"{name} of {self.name} is ({spec.out_features}, {spec.in_features}), the adapter is for one of "
                    f"{found}: it was made for another backbone"
                )
        return {name: pair.to(self.device) for name, pair in adapters.items()}

    # -- loss and samples ------------------------------------------------------------------------------------------

    def denoising_loss(
        self,
        latents: Tensor,
        condition: Condition,
        adapters: Adapters = None,
        noise_level: Tensor | None = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Flow-matching mean squared error of each sample, unweighted; differentiable in the adapters' tensors.

        Args:
            latents: (B, C, T, H, W) as `encode_video` gives them
            condition: of B prompts, or of one for all
            adapters: none, one for all, B of them, or a stack of N dividing B (rows fall into N groups in order)
            noise_level: (B,) in (0, 1); None draws one a sample from the training grid
            generator: for what is drawn here (levels first, then noise)
            noise: (B, C, T, H, W); None draws it

        Returns:
            (B,) float32
        """
        count = latents.shape[0]
        if len(condition) not in (1, count):
            raise ValueError(f"{count} latents need as many conditions (or one), got {len(condition)}")
        if noise_level is None:
            noise_level = draw_noise_levels(count, self.noise_shift, generator)
        if noise is None:
            noise_device = torch.device("cpu") if generator is None else generator.device
            noise = torch.randn(latents.shape, generator=generator, device=noise_device)
        x_0 = latents.to(self.device, torch.float32)
        noise = noise.to(self.device, torch.float32)
        sigma = noise_level.to(self.device, torch.float32)
        x_t = add_noise(x_0, noise, sigma)
        v = self.predict_velocity(x_t, sigma, condition, self.adapter_batch(adapters), None)
        return (v.float() - velocity_target(x_0, noise)).square().flatten(1).mean(1)

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
    ) -> Tensor:
        """Samples clips.

        Args:
            prompt: one or B of them; one prompt with a list of adapters is sampled under each
            adapter: none, one for all, or one a row (None in the list: that row has none)
            strength: factor on the adapters' alpha
            seed: of each row, or one number: row i then has `seed + i`. A row's noise depends on its seed alone
            steps, guidance, frames, height, width: None takes the backbone's own (`sampling`)
            negative_prompt: what guidance leads away from

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
        asked = {"steps": steps, "guidance": guidance, "frames": frames, "height": height, "width": width}
        sampling = replace(self.sampling, **{key: value for key, value in asked.items() if value is not None})
        batch = self.adapter_batch(None if all(a is None for a in adapters) else adapters)
        scaled = {name: LowRankBatch(pair.A, pair.B, pair.alpha * strength) for name, pair in batch.items()}
        prompts = prompts * (count // len(prompts))
        with torch.no_grad():
            return self.decode_latents(self._sample(prompts, negative_prompt, scaled, seeds, sampling))

    # -- device ----------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the adapted network is."""
        return self._first_weight().device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the adapted layers."""
        return self._first_weight().dtype

    def _first_weight(self) -> Tensor:
        return self.weight(self.layers[0].name)

    def to(self, device: torch.device | str) -> "Backbone":
        """Moves all its modules."""
        self.pipeline.to(device)
        return self
