"""Layer names: `<pipeline component>.<module path>`, as diffusers spells them: "transformer.blocks.0.attn1.to_q"."""

from collections.abc import Mapping
from typing import TypeVar

__all__ = ["join_name", "split_components", "split_name"]

_T = TypeVar("_T")


def join_name(component: str, path: str) -> str:
    """Layer name of a module path inside a pipeline component."""
    return f"{component}.{path}"


def split_name(name: str) -> tuple[str, str]:
    """(component, module path) of a layer name (ValueError: it has no component in front)."""
    component, dot, path = name.partition(".")
    if not dot or not path:
        raise ValueError(f"{name!r} is no layer name, as transformer.blocks.0.attn1.to_q is")
    return component, path


def split_components(layers: Mapping[str, _T]) -> dict[str, dict[str, _T]]:
    """Layer name -> value, by component: component -> module path -> value, in order."""
    groups: dict[str, dict[str, _T]] = {}
    for name, value in layers.items():
        component, path = split_name(name)
        groups.setdefault(component, {})[path] = value
    return groups
