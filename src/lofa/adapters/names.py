"""Layer names: one table a model family, holding every spelling in use.

The name of an adapted layer is `<pipeline component>.<module path>` as diffusers spells it:
"transformer.blocks.0.attn1.to_q", "transformer_2.blocks.0.ffn.net.2". Other tools keep the spelling of the model's
first publication ("blocks.0.self_attn.q"), some with underscores for dots ("blocks_0_self_attn_q").
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

__all__ = [
    "FAMILIES",
    "WAN",
    "Family",
    "canonical_path",
    "join_name",
    "locate_layer",
    "split_components",
    "split_name",
]


@dataclass(frozen=True)
class Family:
    """The linear layers of a model family in two spellings.

    Attributes:
        name: of the family
        component: pipeline component that holds the layers where a file doesn't say
        kinds: linear layers of one block, diffusers' spelling -> the original one
        others: linear layers outside the blocks, in the same two spellings
    """

    name: str
    component: str
    kinds: Mapping[str, str]
    others: Mapping[str, str]

    def layer_path(self, depth: int, kind: str) -> str:
        """Module path of the layer of that kind in block `depth`."""
        return f"blocks.{depth}.{kind}"

    def locate(self, path: str) -> tuple[int, str] | None:
        """(depth, kind) of a block's layer given by its module path, None for every other path."""
        match = self._block.fullmatch(path)
        return (int(match["depth"]), match["kind"]) if match and match["kind"] in self.kinds else None

    def to_original(self, path: str) -> str | None:
        """Module path in the original spelling; None if the table has no such layer."""
        place = self.locate(path)
        return self.others.get(path) if place is None else f"blocks.{place[0]}.{self.kinds[place[1]]}"

    def to_flat(self, path: str) -> str | None:
        """Module path in the original spelling with underscores for dots; None if the table has no such layer."""
        original = self.to_original(path)
        return None if original is None else _flat(original)

    def from_original(self, path: str) -> str | None:
        """Inverse of `to_original` and of `to_flat`."""
        match = self._block.fullmatch(path) or self._flat_block.fullmatch(path)
        if match is None:
            return self._original_others.get(path)
        kind = self._original_kinds.get(match["kind"])
        return None if kind is None else self.layer_path(int(match["depth"]), kind)

    @cached_property
    def _block(self) -> re.Pattern[str]:
        return re.compile(r"blocks\.(?P<depth>\d+)\.(?P<kind>.+)")

    @cached_property
    def _flat_block(self) -> re.Pattern[str]:
        return re.compile(r"blocks_(?P<depth>\d+)_(?P<kind>.+)")

    @cached_property
    def _original_kinds(self) -> dict[str, str]:
        return _inverse(self.kinds)

    @cached_property
    def _original_others(self) -> dict[str, str]:
        return _inverse(self.others)


def _inverse(table: Mapping[str, str]) -> dict[str, str]:
    dotted = {original: path for path, original in table.items()}
    return dotted | {_flat(original): path for original, path in dotted.items()}


def _flat(path: str) -> str:
    return path.replace(".", "_")


WAN = Family(
    name="wan",
    component="transformer",
    kinds={
        "attn1.to_q": "self_attn.q",
        "attn1.to_k": "self_attn.k",
        "attn1.to_v": "self_attn.v",
        "attn1.to_out.0": "self_attn.o",
        "attn2.to_q": "cross_attn.q",
        "attn2.to_k": "cross_attn.k",
        "attn2.to_v": "cross_attn.v",
        "attn2.to_out.0": "cross_attn.o",
        "attn2.add_k_proj": "cross_attn.k_img",
        "attn2.add_v_proj": "cross_attn.v_img",
        "ffn.net.0.proj": "ffn.0",
        "ffn.net.2": "ffn.2",
    },
    others={
        "condition_embedder.text_embedder.linear_1": "text_embedding.0",
        "condition_embedder.text_embedder.linear_2": "text_embedding.2",
        "condition_embedder.time_embedder.linear_1": "time_embedding.0",
        "condition_embedder.time_embedder.linear_2": "time_embedding.2",
        "condition_embedder.time_proj": "time_projection.1",
        "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
        "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3",
        "proj_out": "head.head",
    },
)
"""Wan 2.1 and 2.2 (https://github.com/Wan-Video/Wan2.1 against diffusers' WanTransformer3DModel)."""

FAMILIES: tuple[Family, ...] = (WAN,)


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


def locate_layer(name: str) -> tuple[str, int, str] | None:
    """(component, depth, kind) of a layer name that stands in a block of a family, None for every other."""
    component, path = split_name(name)
    place = next((place for family in FAMILIES if (place := family.locate(path)) is not None), None)
    return None if place is None else (component, *place)


def split_components(names: Iterable[str]) -> dict[str, list[str]]:
    """Groups layer names by component: component -> module paths, in order."""
    groups: dict[str, list[str]] = {}
    for component, path in map(split_name, names):
        groups.setdefault(component, []).append(path)
    return groups


def canonical_path(path: str) -> str | None:
    """diffusers' spelling of a module path given in any spelling of any family; None if no table has it."""
    for family in FAMILIES:
        if family.to_original(path) is not None:
            return path
        canonical = family.from_original(path)
        if canonical is not None:
            return canonical
    return None
