"""The predictor: one prompt in, one adapter out, in a forward pass of each stage."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar, overload

import torch
from torch import Tensor

from lofa.adapters import Adapter, LowRankBatch, unstack
from lofa.backbones import Backbone, load_backbone
from lofa.conditions import PoseEncoder, pad_rows
from lofa.errors import LofaError
from lofa.predict.pose_input import PoseInput, read_pose
from lofa.predict.published import PREFIX, PUBLISHED_BACKBONE, read_published
from lofa.predict.stages import Description, Stage, load_stage, read_description

__all__ = ["Predictor"]

ResponseMap = dict[str, Tensor]
Result = TypeVar("Result")


class Predictor:
    """Predicts adapters of one backbone from prompts of one kind. Made by `Predictor.load`.

    Args:
        description: what the files say
        backbone: the one described
        response: stage I
        adapter: stage II
        batch_size: prompts that go through the networks at once

    Raises:
        LofaError: another backbone than the predictor was trained for.
    """

    def __init__(
        self, description: Description, backbone: Backbone, response: Stage, adapter: Stage, batch_size: int = 16
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
        networks: tuple[Any, Any] = (response.network, adapter.network)  # ours or the published ones: same methods
        self.description = description
        self.backbone = backbone
        self._encoders = (response.encoder, adapter.encoder)
        self._batch_size = batch_size
        self._device = next(networks[1].parameters()).device
        table = (
            backbone.weights(description.layers).to(self._device),
            torch.tensor(description.depth, device=self._device),
            torch.tensor(description.kind, device=self._device),
        )
        with torch.no_grad():  # what depends on the weights alone, once for all prompts
            self._prepared = (networks[0].prepare(*table), networks[1].prepare(*table))
        self._networks = networks

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu", backbone: Backbone | None = None) -> Self:
        """Loads a run directory or its `predictor/` folder, or the published predictor from "reference:<folder>".

        Args:
            path: the folder
            device: for the networks and a backbone that is loaded here
            backbone: one already loaded; None loads the one the predictor names

        Raises:
            LofaError: no predictor there, damaged files, only stage I trained, or another backbone.
        """
        if str(path).startswith(PREFIX):
            backbone = backbone or load_backbone(PUBLISHED_BACKBONE, device=device)
            description, response, adapter = read_published(str(path).removeprefix(PREFIX), backbone, device)
            return cls(description, backbone, response, adapter)
        description = read_description(path)
        response, adapter = (load_stage(description, name, device) for name in ("response", "adapter"))
        return cls(
            description, backbone or load_backbone(description.backbone_config, device=device), response, adapter
        )

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
    ) -> ResponseMap | list[ResponseMap]:
        """Stage I's response map {layer name: (out, in) probability that the entry responds}; a list for a list.

        Arguments and errors as in `predict`.
        """
        return self._one_or_many(self._maps, prompt, pose, image)

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

    def _values(self, inputs: list[Any]) -> tuple[Tensor, Tensor]:
        encoder = self._encoders[1]
        if isinstance(encoder, PoseEncoder):
            values, lengths = pad_rows([read_pose(pose, encoder.joints) for pose in inputs])
        else:
            condition = self.backbone.encode_prompt(inputs)
            values, lengths = condition.tokens.float(), condition.lengths
        return values.to(self._device), lengths.to(self._device)

    @torch.no_grad()
    def _maps(self, inputs: list[Any]) -> list[ResponseMap]:
        read = self._encoders[0](*self._values(inputs))
        probability = self._networks[0].respond(self._prepared[0], *read).probability()
        return [dict(zip(self.description.layers, row, strict=True)) for row in probability]

    @torch.no_grad()
    def _adapters(self, inputs: list[Any]) -> list[Adapter]:
        values, lengths = self._values(inputs)
        tokens = self._networks[0].finish(self._prepared[0], *self._encoders[0](values, lengths))
        prediction = self._networks[1].adapt(self._prepared[1], *self._encoders[1](values, lengths), tokens)
        A, B, alpha = prediction.A.float(), prediction.B.float(), prediction.alpha.float()
        batch = {name: LowRankBatch(A[:, i], B[:, i], alpha[:, i]) for i, name in enumerate(self.description.layers)}
        metadata = {"backbone": self.backbone.name, "backbone_fingerprint": self.backbone.fingerprint}
        told = [{"prompt": str(value)} if self.condition == "text" else {} for value in inputs]
        return [Adapter(adapter, metadata | more) for adapter, more in zip(unstack(batch), told, strict=True)]
