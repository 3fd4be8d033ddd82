"""The weight files of a diffusers folder, read tensor by tensor without building a network.

A layer name's component is a subfolder, its module path with `.weight` a tensor of one of its .safetensors files:
"transformer.blocks.0.attn1.to_q" is `blocks.0.attn1.to_q.weight` in `transformer/*.safetensors`.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from torch import Tensor

from lofa.adapters import LowRank
from lofa.adapters.names import join_name, split_name
from lofa.errors import BackboneError
from lofa.files import read_tensors, tensor_shapes

__all__ = ["WeightFolder"]


class WeightFolder:
    """A diffusers folder as a table of layers."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _layers(self) -> dict[str, dict[Path, tuple[int, ...]]]:
        """Layer name -> the files that hold its weight, and its size there."""
        found: dict[str, dict[Path, tuple[int, ...]]] = {}
        for file in sorted(self.path.glob("*/*.safetensors")):
            for tensor, size in tensor_shapes(file).items():
                if tensor.endswith(".weight"):
                    found.setdefault(join_name(file.parent.name, tensor[: -len(".weight")]), {})[file] = size
        return found

    def files(self, name: str) -> list[Path]:
        """Every file that holds the weight of a layer: several where the folder has variants.

        Raises:
            BackboneError: the folder has no such layer.
        """
        if name not in self._layers:
            component, _ = split_name(name)
            count = sum(known.startswith(f"{component}.") for known in self._layers)
            raise BackboneError(
                f"{self.path}: no weight of the layer {name} among the {count} of {component}/*.safetensors; the "
                "adapter was made for another backbone"
            )
        return list(self._layers[name])

    def weight(self, name: str) -> Tensor:
        """W (out, in) of a layer, read from disk (BackboneError as in `files`)."""
        tensor = f"{split_name(name)[1]}.weight"
        return read_tensors(self.files(name)[0], [tensor])[tensor]

    def check(self, adapter: Mapping[str, LowRank]) -> None:
        """Compares an adapter with the folder (BackboneError: a layer that it lacks or has in another size)."""
        for name, pair in adapter.items():
            size = pair.B.shape[0], pair.A.shape[1]
            for file in self.files(name):
                found = self._layers[name][file]
                if found != size:
                    raise BackboneError(
                        f"{file}: the layer {name} is {found}, the adapter is for one of {size}: it was made for "
                        "another backbone"
                    )
