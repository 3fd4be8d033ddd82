"""The predictor: one prompt in, one adapter out."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar, overload

import torch
from torch import Tensor

from lofa.adapters import Adapter, merge_batches, unstack
from lofa.backbones import Backbone, load_backbone
from lofa.conditions import PoseEncoder, pad_rows
from lofa.errors import LofaError
from lofa.hypernets import FrozenLayer, Hypernetwork, Inputs, Response, compile_blocks
from lofa.interop import PREFIX
from lofa.predict.pose_input import PoseInput, read_pose
from lofa.predict.published import PUBLISHED_BACKBONE, read_published
from lofa.predict.stages import Description, load_hypernet, read_description

__all__ = ["Predictor"]

ByLayer = dict[str, Tensor]
Result = TypeVar("Result")


class Predictor:
    """Predicts adapters of one backbone from prompts of one kind. Made by `Predictor.load`.

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
        if backbone.fingerprint != description.fingerprint:
            raise LofaError(
                f"{description.folder}: trained for the backbone {description.backbone!r} of fingerprint "
                f"{description.fingerprint}, but {backbone.name!r} has {backbone.fingerprint}; give the backbone it "
                "was trained for, or train a predictor for this one"
            )
        missing = set(description.layers) - {layer.name for layer in backbone.layers}
        if missing:
            raise LofaError(
                f"{description.folder}: the backbone {backbone.name!r} as loaded lacks the layer {min(missing)}"
            )
        self.description = description
        self.backbone = backbone
        self.hypernet = hypernet
        self._batch_size = batch_size
        self._device = next(hypernet.parameters()).device
        try:
            with torch.no_grad():
                self._prepared = hypernet.prepare(self._layers())  # once for all prompts
        except ValueError as error:
            raise LofaError(
                f"{description.folder}: its networks can't read the layers of the backbone {backbone.name!r}: {error}"
            ) from None

    def _layers(self) -> Iterator[FrozenLayer]:
        of = self.description
        for name, depth, kind in zip(of.layers, of.depth, of.kind, strict=True):
            yield FrozenLayer(name, self.backbone.weight(name).to(self._device), depth, kind)

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
            backbone = backbone or load_backbone(description.backbone_config, device=device)
        made = cls(description, backbone, hypernet)
        if compile:
            for part in hypernet.parts().values():
                compile_blocks(part)
        return made

    @property
    def condition(self) -> str:
        """What it takes: "text" or "pose"."""
        return self.description.condition

    @overload
    def predict(self, prompt: str | None = None, pose: PoseInput | None = None, image: None = None) -> Adapter: ...
    @overload
    def predict(
        self, prompt: Sequence[str] | None = None, pose: Sequence[PoseInput] | None = None, image: None = None
    ) -> list[Adapter]: ...
    def predict(
        self,
        prompt: str | Sequence[str] | None = None,
        pose: PoseInput | Sequence[PoseInput] | None = None,
        image: object = None,
    ) -> Adapter | list[Adapter]:
        """Predicts an adapter for one prompt, or a list of them for a list of prompts.

        Args:
            prompt: text
            pose: (T, J, 2) array or file of joints
            image: for predictors of images; none of those kinds exists yet

        Raises:
            LofaError: not exactly one of the three, or one that this predictor does not take.
        """
        return self._one_or_many(self._adapters, prompt, pose, image)

    def response_map(
        self,
        prompt: str | Sequence[str] | None = None,
        pose: PoseInput | Sequence[PoseInput] | None = None,
        image: object = None,
    ) -> ByLayer | list[ByLayer]:
        """The response map {layer name: (out, in) probability that the entry responds}; a list for a list.

        Arguments and errors as in `predict`; LofaError too where the hypernetwork has no response map.
        """
        return self._one_or_many(self._maps, prompt, pose, image)

    def response_tokens(
        self,
        prompt: str | Sequence[str] | None = None,
        pose: PoseInput | Sequence[PoseInput] | None = None,
        image: object = None,
    ) -> ByLayer | list[ByLayer]:
        """Stage I's final tokens {layer name: (T, d)}, which stage II reads; a list for a list.

        Arguments and errors as in `response_map`.
        """
        return self._one_or_many(self._tokens, prompt, pose, image)

    def _one_or_many(
        self, function: Callable[[list[Any]], list[Result]], prompt: object, pose: object, image: object
    ) -> Result | list[Result]:
        asked = {"prompt": prompt, "pose": pose, "image": image}
        given = {name: value for name, value in asked.items() if value is not None}
        takes = "prompt" if self.condition == "text" else self.condition
        if set(given) != {takes}:
            raise LofaError(
                f"{self.description.folder}: this predictor takes {takes}=, one or a list of them; "
                f"got {', '.join(given) or 'nothing'}"
            )
        value = given[takes]
        values = list(value) if isinstance(value, list | tuple) else [value]
        if not values:
            raise LofaError(f"{self.description.folder}: an empty list of prompts; give at least one {takes}")
        results: list[Result] = []
        for start in range(0, len(values), self._batch_size):
            results += function(values[start : start + self._batch_size])
        return results if isinstance(value, list | tuple) else results[0]

    def _read(self, inputs: list[Any]) -> Inputs:
        encoder = self.hypernet.encoder
        if isinstance(encoder, PoseEncoder):
            values, lengths = pad_rows([read_pose(pose, encoder.joints) for pose in inputs])
        else:
            condition = self.backbone.encode_prompt(inputs)
            values, lengths = condition.tokens.float(), condition.lengths
        return values.to(self._device), lengths.to(self._device)

    def _maps(self, inputs: list[Any]) -> list[ByLayer]:
        return self._respond(inputs, Response.probability)

    def _tokens(self, inputs: list[Any]) -> list[ByLayer]:
        return self._respond(inputs, lambda response: response.tokens)

    @torch.no_grad()
    def _respond(self, inputs: list[Any], answer: Callable[[Response], Tensor]) -> list[ByLayer]:
        """The response to each prompt, `answer` giving (P, L, ...) for layers of one shape."""
        if not self.hypernet.has_response:
            raise LofaError(
                f"{self.description.folder}: a {self.description.hypernet} predictor has no response map; it predicts "
                "adapters alone"
            )
        found: list[ByLayer] = [{} for _ in inputs]
        for response in self.hypernet.response(self._prepared, self._read(inputs)):
            for row, made in zip(found, answer(response), strict=True):
                row.update(zip(response.layers, made, strict=True))
        return [{name: row[name] for name in self.description.layers} for row in found]

    @torch.no_grad()
    def _adapters(self, inputs: list[Any]) -> list[Adapter]:
        pairs = merge_batches(self.hypernet.predict(self._prepared, self._read(inputs)))
        batch = {name: pairs[name] for name in self.description.layers}
        metadata = {"backbone": self.backbone.name, "backbone_fingerprint": self.backbone.fingerprint}
        prompts = [{"prompt": str(value)} if self.condition == "text" else {} for value in inputs]
        return [Adapter(adapter, metadata | more) for adapter, more in zip(unstack(batch), prompts, strict=True)]
