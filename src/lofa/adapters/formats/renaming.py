"""Between layer names and the names of a model's first publication, which several formats keep."""

from collections.abc import Mapping
from pathlib import Path

from lofa.adapters.families import FAMILIES, family_of
from lofa.adapters.formats.container import RawFile, single_component
from lofa.adapters.lowrank import LowRank
from lofa.adapters.names import join_name
from lofa.errors import AdapterFormatError

__all__ = ["to_layers", "to_original"]


def to_original(path: Path, layers: Mapping[str, LowRank], format: str) -> tuple[str, dict[str, LowRank]]:
    """(component, pairs by original name) of an adapter to be written at `path`.

    Raises:
        AdapterFormatError: more than one component, or a layer of a family without original names.
    """
    component, paths = single_component(layers, format)
    family = family_of(paths)
    if family is None:
        unknown = next((module for module in paths if family_of([module]) is None), paths[0])
        raise AdapterFormatError(f"{path}: no {format} name is known for layer {unknown}; use format=diffusers or peft")
    return component, family.to_original({module: layers[join_name(component, module)] for module in paths})


def to_layers(raw: RawFile, pairs: Mapping[str, LowRank], component: str | None = None) -> dict[str, LowRank]:
    """Pairs of a file by original name -> by layer name.

    Args:
        component: that the layers belong to; None takes the family's first

    Raises:
        AdapterFormatError: a name that is in no family, or not in that of the others.
    """
    family = family_of(pairs, original=True)
    if family is None:
        unknown = next((name for name in pairs if family_of([name], original=True) is None), next(iter(pairs)))
        raise raw.error(f"layer {unknown} is in none of the model families known here ({', '.join(FAMILIES)})")
    component = component or next(iter(family.components))
    return {join_name(component, path): pair for path, pair in family.from_original(pairs).items()}
