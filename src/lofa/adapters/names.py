"""Layer names: `<pipeline component>.<module path>`, as diffusers spells them: "transformer.blocks.0.attn1.to_q"."""

from collections.abc import Iterable

__all__ = ["join_name", "split_components", "split_name"]


def join_name(component: str, path: str) -> str:
    """Layer name of a module path inside a pipeline component."""
    return f"{component}.{path}"


def split_name(name: str) -> tuple[str, str]:
    """(component, module path) of a layer name.

    Raises:
        ValueError: `name` has no component in front.
    """
    component, dot, path = name.partition(".")
    if not dot or not path:
        raise ValueError(
            f"{name!r} is no layer name: it needs a component and a path, as transformer.blocks.0.attn1.to_q"
        )
    return component, path


def split_components(names: Iterable[str]) -> dict[str, list[str]]:
    """Groups layer names by component: component -> module paths, in order."""
    groups: dict[str, list[str]] = {}
    for component, path in map(split_name, names):
        groups.setdefault(component, []).append(path)
    return groups
