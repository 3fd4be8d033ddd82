"""The predictor: one prompt in, one adapter out."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, Self, TypeVar, overload

import torch
from torch import Tensor

from lofa.adapters import Adapter, merge_batches, unstack
from lofa.backbones import Backbone, load_backbone
from lofa.conditions import CONDITIONS, ConditionKind, Inputs, PoseInput
from lofa.errors import LofaError
from lofa.hypernets import FrozenLayer, Hypernetwork, Response, compile_blocks
from lofa.interop import PREFIX
from lofa.predict.published import PUBLISHED_BACKBONE, read_published
from lofa.predict.stages import Description, load_hypernet, read_description

__all__ = ["Predictor"]

ByLayer = dict[str, Tensor]
Asked = Mapping[ConditionKind, Sequence[Any]]
Result = TypeVar("Result")


class Predictor:
    """Predicts adapters of one backbone from conditions of its kinds. Made by `Predictor.load`.

    Args:
        description: what the files say
        backbone: the one described
        hypernet: trained for it, on the device that predicts
        batch_size: prompts that go through the networks at once

    Raises:
        LofaError: another backbone than the predictor was trained for, or a layer table that does not fit its networks.
    """

    def __init__(
        self, description: Description, backbone: Backbone, hypernet: Hypernetwork, batch_size: int = 16
    ) -> None:
        if not backbone.accepts(description.fingerprint):
            raise LofaError(
                f"{description.folder}: trained for the backbone {description.backbone.name!r} of fingerprint "
                f"{description.fingerprint}, but {backbone.name!r} has {backbone.fingerprint}; give the backbone it "
                "was trained for, or train a predictor for this one"
            )
        missing = description.layers.keys() - {layer.name for layer in backbone.layers}
        if missing:
            raise LofaError(f"{description.folder}: the backbone {backbone.name!r} lacks the layer {min(missing)}")
        self.description = description
        self.backbone = backbone
        self.hypernet = hypernet
        self._kinds = [CONDITIONS[name] for name in description.conditions]
        self._batch_size = batch_size
        self._device = next(hypernet.parameters()).device
        layers = (
            FrozenLayer(name, backbone.weight(name).to(self._device), depth, kind)
            for name, (depth, kind) in description.layers.items()
        )
        try:
            with torch.no_grad():
                self._prepared = hypernet.prepare(layers)  # once for all prompts
        except ValueError as error:
            raise LofaError(
                f"{description.folder}: its networks can't read the layers of the backbone {backbone.name!r}: {error}"
            ) from None

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: torch.device | str = "cpu",
        backbone: Backbone | None = None,
        compile: bool = False,
    ) -> Self:
        """Loads a run directory or its `predictor/` folder, or the published predictor from "reference:<folder>".

        Args:
            path: the folder
            device: for the networks and a backbone that is loaded here
            backbone: one already loaded; None loads the one the predictor names
            compile: `torch.compile` the networks' blocks, for a process that predicts for long

        Raises:
            LofaError: no predictor there, damaged files, only stage I trained, or another backbone.
        """
        if str(path).startswith(PREFIX):
            backbone = backbone or load_backbone(PUBLISHED_BACKBONE, device=device)
            description, hypernet = read_published(str(path).removeprefix(PREFIX), backbone, device)
        else:
            description = read_description(path)
            hypernet = load_hypernet(description, device)
            backbone = backbone or load_backbone(description.backbone, device=device)
        made = cls(description, backbone, hypernet)
        if compile:
            for part in hypernet.parts().values():
                compile_blocks(part)
        return made

    @property
    def conditions(self) -> tuple[str, ...]:
        """Kinds of condition that it takes, keys of `CONDITIONS`."""
        return self.description.conditions

    @property
    def arguments(self) -> tuple[str, ...]:
        """Arguments of `predict` that it takes."""
        return tuple(kind.argument for kind in self._kinds)

    @overload
    def predict(self, prompt: str | None = None, pose: PoseInput | None = None, image: Any = None) -> Adapter: ...
    @overload
    def predict(
        self, prompt: Sequence[str] | None = None, pose: Sequence[PoseInput] | None = None, image: Any = None
    ) -> list[Adapter]: ...
    def predict(
        self,
        prompt: str | Sequence[str] | None = None,
        pose: PoseInput | Sequence[PoseInput] | None = None,
        image: Any = None,
    ) -> Adapter | list[Adapter]:
        """Predicts an adapter for one prompt, or a list of them for a list of prompts.

        Args:
            prompt: text
            pose: (T, J, 2) array or file of joints
            image: for predictors of images

        Raises:
            LofaError: none of them, one that this predictor does not take, or several where it takes one.
        """
        return self._one_or_many(self._adapters, prompt=prompt, pose=pose, image=image)

    def response_map(
        self,
        prompt: str | Sequence[str] | None = None,
        pose: PoseInput | Sequence[PoseInput] | None = None,
        image: Any = None,
    ) -> ByLayer | list[ByLayer]:
        """The response map {layer name: (out, in) probability that the entry responds}; a list for a list.

        Arguments and errors as in `predict`; LofaError too where the hypernetwork has no response map.
        """
        answer = partial(self._respond, answer=Response.probability)
        return self._one_or_many(answer, prompt=prompt, pose=pose, image=image)

    def response_tokens(
        self,
        prompt: str | Sequence[str] | None = None,
        pose: PoseInput | Sequence[PoseInput] | None = None,
        image: Any = None,
    ) -> ByLayer | list[ByLayer]:
        """Stage I's final tokens {layer name: (T, d)}, which stage II reads; otherwise as `response_map`."""
        answer = partial(self._respond, answer=attrgetter("tokens"))
        return self._one_or_many(answer, prompt=prompt, pose=pose, image=image)

    def _one_or_many(self, function: Callable[[Asked], list[Result]], **given: object) -> Result | list[Result]:
        asked = self._asked({argument: value for argument, value in given.items() if value is not None})
        many = {kind.is_many(value) for kind, value in asked.items()}
        columns = {kind: list(value) if kind.is_many(value) else [value] for kind, value in asked.items()}
        counts = {kind.argument: len(values) for kind, values in columns.items()}
        if len(many) > 1 or len(set(counts.values())) > 1:
            found = " and ".join(f"{count} of {argument}=" for argument, count in counts.items())
            raise LofaError(f"{self.description.folder}: give one of each condition, or as many of each; got {found}")
        count = max(counts.values())
        if not count:
            raise LofaError(f"{self.description.folder}: an empty list; give at least one {' and '.join(counts)}")
        results: list[Result] = []
        for start in range(0, count, self._batch_size):
            results += function({kind: part[start : start + self._batch_size] for kind, part in columns.items()})
        return results if many == {True} else results[0]

    def _asked(self, given: Mapping[str, object]) -> dict[ConditionKind, Any]:
        """Kind -> what was given of it (LofaError: nothing, or a condition that is not taken)."""
        kinds = {kind.argument: kind for kind in self._kinds}
        if not given or given.keys() - kinds.keys():
            takes, got = ", ".join(f"{argument}=" for argument in kinds), ", ".join(given) or "nothing"
            raise LofaError(f"{self.description.folder}: this predictor takes {takes}; got {got}")
        return {kind: given[argument] for argument, kind in kinds.items() if argument in given}

    def _inputs(self, asked: Asked) -> Inputs:
        rows = {
            kind: kind.read(values, self.backbone, self.hypernet.encoder.part(kind.name).config)
            for kind, values in asked.items()
        }
        return {kind.name: kind.collate(read).to(self._device) for kind, read in rows.items()}

    @torch.no_grad()
    def _respond(self, asked: Asked, answer: Callable[[Response], Tensor]) -> list[ByLayer]:
        """The response to each prompt, `answer` giving (P, L, ...) for layers of one shape."""
        if not self.hypernet.has_response:
            raise LofaError(
                f"{self.description.folder}: a {self.description.hypernet} predictor has no response map; it predicts "
                "adapters alone"
            )
        found: list[ByLayer] = []
        for response in self.hypernet.response(self._prepared, self._inputs(asked)):
            made = answer(response)
            found = found or [{} for _ in made]
            for row, own in zip(found, made, strict=True):
                row.update(zip(response.layers, own, strict=True))
        return [{name: row[name] for name in self.description.layers} for row in found]

    @torch.no_grad()
    def _adapters(self, asked: Asked) -> list[Adapter]:
        pairs = merge_batches(self.hypernet.predict(self._prepared, self._inputs(asked)))
        batch = {name: pairs[name] for name in self.description.layers}
        metadata = {"backbone": self.backbone.name, "backbone_fingerprint": self.backbone.fingerprint}
        made = unstack(batch, metadata)
        for kind, values in asked.items():
            made = [Adapter(one, {**one.metadata, **kind.metadata(v)}) for one, v in zip(made, values, strict=True)]
        return made
