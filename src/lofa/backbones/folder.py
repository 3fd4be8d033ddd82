"""The weight files of a diffusers folder, read tensor by tensor without building a network.

A layer name's component is a subfolder, its module path with `.weight` a tensor of one of its .safetensors files:
"transformer.blocks.0.attn1.to_q" is `blocks.0.attn1.to_q.weight` in `transformer/*.safetensors`.
"""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from torch import Tensor

from lofa.adapters.names import split_name
from lofa.errors import BackboneError
from lofa.files import read_tensors, tensor_shapes

__all__ = ["LayerPlace", "WeightFolder"]

LayerPlace = tuple[Path, str]
"""A file and the name of a tensor in it."""


class WeightFolder:
    """A diffusers folder as a table of layers.

    Args:
        path: of the folder
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def places(self, name: str) -> list[LayerPlace]:
        """Every file that holds the weight of a layer: several where the folder has variants.

        Raises:
            BackboneError: the folder has no such layer.
        """
        component, path = split_name(name)
        places = self._tensors.get((component, f"{path}.weight"), [])
        if not places:
            count = sum(own == component for own, _ in self._tensors)
            raise BackboneError(
                f"{self.path}: no weight of the layer {name} among the {count} tensors of {component}/*.safetensors; "
                "the adapter was made for another backbone"
            )
        return [(file, f"{path}.weight") for file in places]

    def weight(self, name: str) -> Tensor:
        """W (out, in) of a layer, read from disk (BackboneError as in `places`)."""
        file, tensor = self.places(name)[0]
        return read_tensors(file, [tensor])[tensor]

    def check(self, sizes: Iterable[tuple[str, tuple[int, ...]]]) -> None:
        """Compares (layer name, (out, in)) with the folder.

        Raises:
            BackboneError: a layer that the folder lacks or has in another size.
        """
        for name, size in sizes:
            for file, tensor in self.places(name):
                found = self._shapes[file][tensor]
                if found != size:
                    raise BackboneError(
                        f"{file}: the layer {name} is {found}, the adapter is for one of {size}: it was made for "
                        "another backbone"
                    )

    @cached_property
    def _shapes(self) -> dict[Path, dict[str, tuple[int, ...]]]:
        return {file: tensor_shapes(file) for file in sorted(self.path.glob("*/*.safetensors"))}

    @cached_property
    def _tensors(self) -> dict[tuple[str, str], list[Path]]:
        found: dict[tuple[str, str], list[Path]] = {}
        for file, shapes in self._shapes.items():
            for tensor in shapes:
                found.setdefault((file.parent.name, tensor), []).append(file)
        return found
