"""A frozen denoiser whose adapted layers stand in slots: names, weights, fingerprint, and which adapters fit.

None of that but the slots needs the network: it is made when it is first asked for.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from threading import RLock
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from lofa.adapters import Adapter, AdapterBatch, LowRankBatch, Slots, stack_adapters
from lofa.adapters.names import split_components, split_name
from lofa.backbones.fingerprint import SAMPLE, hash_configs, hash_samples, sample_weights
from lofa.backbones.source import Source
from lofa.errors import BackboneError

__all__ = ["Adapters", "LayerSpec", "SlottedNetworks", "by_shape"]

Adapters = Adapter | Sequence[Adapter | None] | AdapterBatch | None
"""One adapter for the whole batch, one a row, a stack of N, or none."""


@dataclass(frozen=True)
class LayerSpec:
    """An adapted linear layer, whose weight is (out_features, in_features)."""

    name: str
    """pipeline component and module path, "transformer.blocks.0.attn1.to_q" """
    depth: int
    """index of its block, counted on through the components"""
    kind: str
    """what it is in its block, "attn1.to_q" """
    out_features: int
    in_features: int

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.out_features, self.in_features


def by_shape(layers: Iterable[LayerSpec]) -> dict[tuple[int, int], list[int]]:
    """Indices of the layers of each shape (out, in), shapes in the order of their first layer."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, layer in enumerate(layers):
        groups.setdefault(layer.shape, []).append(index)
    return groups


class SlottedNetworks(ABC):
    """A denoiser that is frozen, in eval mode, and carries slots at the adapted layers.

    Args:
        name: what it was loaded as
        source: where its parts come from
        kinds: layer kinds to adapt; none named: `default_kinds`
        dtype: precision of denoiser and text encoder; the autoencoder stays in float32
        device: where its parts are put
        gradient_checkpointing: recompute activations in the backward pass; adapters are attached again for it

    Attributes:
        layers: the adapted layers
        kinds: their kinds, in the order that `kind_ids` counts
    """

    default_kinds: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        name: str,
        source: Source,
        kinds: Sequence[str] = (),
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        gradient_checkpointing: bool = False,
    ) -> None:
        self.name, self.source, self.dtype, self.device = name, source, dtype, torch.device(device)
        self.layers = tuple(self._layer_table(kinds or self.default_kinds))
        self.kinds = tuple(dict.fromkeys(layer.kind for layer in self.layers))
        self._by_name = {layer.name: layer for layer in self.layers}
        self._checkpointing = gradient_checkpointing
        self._parts: dict[str, Any] = {}
        self._lock = RLock()
        self._weights_hash: str | None = None

    # -- what a family fills in ------------------------------------------------------------------------------------

    @abstractmethod
    def _layer_table(self, kinds: Sequence[str]) -> Sequence[LayerSpec]:
        """The layers of those kinds, by the configurations alone (BackboneError: a kind that there is not)."""

    @abstractmethod
    def _open_denoiser(self) -> Mapping[str, nn.Module]:
        """Loads the networks that hold the adapted layers: component -> network."""

    @property
    def architecture(self) -> Mapping[str, Mapping[str, Any]]:
        """What decides, beside the weights, what the denoiser computes: component -> values."""
        return {component: self.source.config(component) for component in self._components}

    # -- the denoiser ----------------------------------------------------------------------------------------------

    @property
    def denoiser(self) -> nn.ModuleDict:
        """Component -> network (BackboneError: its files are missing or damaged)."""
        networks: nn.ModuleDict = self._part("denoiser", self._make_denoiser)
        return networks

    @property
    def slots(self) -> Slots:
        """The slots of all layers in the denoiser, installed."""
        self.denoiser  # noqa: B018  makes them
        return self._slots

    def _make_denoiser(self) -> nn.ModuleDict:
        networks = nn.ModuleDict(self._open_denoiser())
        self._slots = Slots(networks, {layer.name: layer.name for layer in self.layers})
        network: Any
        for network in networks.values() if self._checkpointing else ():
            network.enable_gradient_checkpointing(self._slots.checkpoint)
        return networks

    # -- parts -----------------------------------------------------------------------------------------------------

    def has(self, part: str) -> bool:
        """Whether a part ("denoiser", "autoencoder" ...) has been made."""
        return part in self._parts

    def _part(self, name: str, make: Callable[[], Any]) -> Any:
        """A part, made when it is first asked for; a network is frozen, in eval mode and on the device."""
        with self._lock:
            if name not in self._parts:
                made = make()
                if isinstance(made, nn.Module):
                    made.requires_grad_(False).eval().to(self.device)
                self._parts[name] = made
            return self._parts[name]

    def to(self, device: torch.device | str) -> Self:
        """Moves the parts that have been made, and has the others made there."""
        self.device = torch.device(device)
        for part in self._parts.values():
            if isinstance(part, nn.Module):
                part.to(self.device)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """All but the parts: another process makes those that it needs."""
        return {key: value for key, value in vars(self).items() if key not in ("_parts", "_slots", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _parts={}, _lock=RLock())

    # -- layers and weights ----------------------------------------------------------------------------------------

    def layer(self, name: str) -> LayerSpec:
        """The layer of that name (BackboneError if there is none)."""
        try:
            return self._by_name[name]
        except KeyError:
            first, last = self.layers[0].name, self.layers[-1].name
            raise BackboneError(f"{self.name} has no adapted layer {name!r}; it has {first} to {last}") from None

    def weight(self, name: str) -> Tensor:
        """W (out, in) of a layer, detached: the network's own where the denoiser has been made, else read from file.

        Raises:
            BackboneError: no such layer, or its file is missing or damaged.
        """
        layer = self.layer(name)
        if not self.has("denoiser"):
            component, path = split_name(name)
            stored = self.source.tensor(component, f"{path}.weight")
            if stored is not None:
                if stored.shape != layer.shape:
                    raise BackboneError(
                        f"{self.name}: the weight of {name} is {tuple(stored.shape)}, its configuration says "
                        f"{layer.shape}"
                    )
                return stored.to(self.device, self.dtype)
        return self.denoiser.get_parameter(f"{name}.weight").detach()

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

    @property
    def _components(self) -> tuple[str, ...]:
        return tuple(split_components(self._by_name))

    @property
    def fingerprint(self) -> str:
        """What tells backbones apart (`lofa.backbones.fingerprint`): two of the same one make interchangeable data.

        Weights that would have to be downloaded first do not count until they are.
        """
        if self._weights_hash is None:
            samples = {component: self.source.sample(component, SAMPLE) for component in self._components}
            if None in samples.values() and self.has("denoiser") and self.device.type != "meta":
                samples = {component: sample_weights(network) for component, network in self.denoiser.items()}
            here = {component: sample for component, sample in samples.items() if sample is not None}
            self._weights_hash = hash_samples(here) if len(here) == len(samples) else None
        configuration = hash_configs(self.architecture)
        return configuration if self._weights_hash is None else f"{configuration}-{self._weights_hash}"

    def accepts(self, fingerprint: str | None) -> bool:
        """Whether a file with this stamp was made for this backbone, as far as its maker and this one know."""
        if not fingerprint:
            return False
        longer, shorter = sorted((fingerprint, self.fingerprint), key=len, reverse=True)
        if longer == shorter or longer.startswith(f"{shorter}-"):
            return True
        return "-" not in fingerprint and fingerprint == self._fingerprint_of_0_1

    @property
    def _fingerprint_of_0_1(self) -> str | None:
        """What LoFA 0.1 stamped the files of this backbone with, where it knew its family."""
        return None

    def adapter_batch(self, adapters: Adapters) -> dict[str, LowRankBatch]:
        """N adapters in one stack on this device (empty where there are none); None in a list is no adapter.

        Raises:
            BackboneError: an adapter for a layer this backbone hasn't, or of another size.
        """
        if adapters is None or isinstance(adapters, Adapter):
            adapters = [adapters]
        batch = stack_adapters([one or {} for one in adapters]) if isinstance(adapters, Sequence) else adapters
        for name, pair in batch.items():
            own, found = self.layer(name).shape, (pair.B.shape[1], pair.A.shape[2])
            if found != own:
                raise BackboneError(
                    f"{name} of {self.name} is {own}, the adapter is for one of {found}: it is for another backbone"
                )
        return {name: pair.to(self.device) for name, pair in batch.items()}
