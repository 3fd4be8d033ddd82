"""Frozen networks whose adapted layers stand in slots: names, weights, and which adapters fit."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from lofa.adapters import Adapter, AdapterBatch, LowRankBatch, Slots, stack_adapters
from lofa.errors import BackboneError

__all__ = ["Adapters", "LayerSpec", "SlottedNetworks", "by_shape"]

Adapters = Adapter | Sequence[Adapter | None] | AdapterBatch | None
"""One adapter for the whole batch, one a row, a stack of N, or none."""


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


def by_shape(layers: Iterable[LayerSpec]) -> dict[tuple[int, int], list[int]]:
    """Indices of the layers of each shape (out, in), shapes in the order of their first layer."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, layer in enumerate(layers):
        groups.setdefault((layer.out_features, layer.in_features), []).append(index)
    return groups


class SlottedNetworks:
    """Networks that are frozen, in eval mode, and carry slots at the adapted layers.

    Args:
        name: for messages
        networks: component name -> network
        layers: the adapted layers; their names are paths below `networks`

    Attributes:
        kinds: layer kinds, in the order that `kind_ids` counts
        slots: the installed slots of all layers
    """

    def __init__(self, name: str, networks: Mapping[str, nn.Module], layers: Sequence[LayerSpec]) -> None:
        self.name = name
        self.layers = tuple(layers)
        self.kinds = tuple(dict.fromkeys(layer.kind for layer in self.layers))
        self._by_name = {layer.name: layer for layer in self.layers}
        self._networks = nn.ModuleDict(networks)
        self._networks.requires_grad_(False).eval()
        self.slots = Slots(self._networks, {layer.name: layer.name for layer in self.layers})
        self.slots.install()

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

    def adapter_batch(self, adapters: Adapters) -> dict[str, LowRankBatch]:
        """N adapters in one stack on this device (empty where there are none); None in a list is no adapter.

        Raises:
            BackboneError: an adapter for a layer this backbone hasn't, or of another size.
        """
        if adapters is None:
            return {}
        batch: AdapterBatch
        if isinstance(adapters, Sequence):
            batch = stack_adapters([{} if adapter is None else adapter for adapter in adapters])
        elif isinstance(adapters, Adapter):
            batch = stack_adapters([adapters])
        else:
            batch = adapters
        for name, pair in batch.items():
            spec, found = self.layer(name), (pair.B.shape[1], pair.A.shape[2])
            if found != (spec.out_features, spec.in_features):
                raise BackboneError(
                    f"{name} of {self.name} is ({spec.out_features}, {spec.in_features}), the adapter is for one of "
                    f"{found}: it was made for another backbone"
                )
        return {name: pair.to(self.device) for name, pair in batch.items()}

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
