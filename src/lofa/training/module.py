"""What the LightningModules of both stages share: frozen layers, optimizer, sharding. No architecture, no formula."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lofa.adapters import LoraBatch
from lofa.backbones import Backbone, by_shape
from lofa.conditions import ConditionEncoder, Inputs, spreads
from lofa.errors import DataError
from lofa.hypernets import AdapterNet, ResponseNet
from lofa.hypernets.tiling import check_weights
from lofa.training.sharding import shard

__all__ = ["OptimizerFactory", "PredictorModule", "SchedulerFactory"]

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler]


class FrozenLayers(nn.Module):
    """W, depth and kind of a backbone's layers, on the module's device and outside its checkpoints.

    Raises:
        DataError: weights that are not finite, or have columns of zeros.
    """

    depth: Tensor
    kind: Tensor
    place: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.shapes = by_shape(backbone.layers)
        self._numbers = {layer.name: index for index, layer in enumerate(backbone.layers)}
        self.stack_of = [0] * len(backbone.layers)
        place = torch.zeros(len(backbone.layers), dtype=torch.long)
        for number, indices in enumerate(self.shapes.values()):
            names = [backbone.layers[index].name for index in indices]
            weights = backbone.weights(names)
            try:
                check_weights(weights, names)
            except ValueError as error:
                raise DataError(f"backbone {backbone.name!r}: {error}; load it from a whole file") from None
            self.register_buffer(f"weight_{number}", weights, persistent=False)
            place[indices] = torch.arange(len(indices))
            for index in indices:
                self.stack_of[index] = number
        self.register_buffer("depth", backbone.depth_ids, persistent=False)
        self.register_buffer("kind", backbone.kind_ids, persistent=False)
        self.register_buffer("place", place, persistent=False)

    def number(self, layers: Sequence[str]) -> Tensor:
        """(L,) indices of the layers of these names."""
        return torch.tensor([self._numbers[name] for name in layers], device=self.depth.device)

    def forward(self, names: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """W (L, out, in), depth (L,), kind (L,) of layers of one shape; all W in order are not copied."""
        layers = self.number(names)
        weight: Tensor = getattr(self, f"weight_{self.stack_of[int(layers[0])]}")
        place = self.place[layers]
        if len(place) != len(weight) or not bool((place.diff() > 0).all()):
            weight = weight[place]
        return weight, self.depth[layers], self.kind[layers]


class PredictorModule(LightningModule):
    """Trains `network` and `encoder`, and nothing else; checkpoints hold these two alone.

    Args:
        network: the hypernetwork of the stage
        encoder: conditions of P prompts -> condition tokens (P, N, C), lengths (P,)
        backbone: frozen; gives the weights W of its layers
        optimizer: parameters -> optimizer
        scheduler: optimizer -> schedule stepped every optimizer step; None keeps the rate
        diagnostics_every: optimizer steps between the costly diagnostics
    """

    def __init__(
        self,
        network: ResponseNet | AdapterNet,
        encoder: ConditionEncoder,
        backbone: Backbone,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None = None,
        diagnostics_every: int = 50,
    ) -> None:
        super().__init__()
        self.network = network
        self.encoder: ConditionEncoder = encoder
        self.layer_names = tuple(layer.name for layer in backbone.layers)
        self.frozen = FrozenLayers(backbone)
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._diagnostics_every = diagnostics_every
        self._sharded = False

    def layers_of(self, stack: LoraBatch, ids: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """W (L, out, in), depth (L,), kind (L,) of the layers of a stack.

        Raises:
            DataError: the adapters, of the samples `ids`, are for layers of another size.
        """
        weight, depth, kind = self.frozen(stack.layers)
        if stack.shape != weight.shape[1:]:
            raise DataError(
                f"the adapters of {', '.join(ids[:3])} are for layers of {stack.shape}, "
                f"the backbone's are {tuple(weight.shape[1:])}; build the zoo for this backbone"
            )
        return weight, depth, kind

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint of other networks.

        Raises:
            DataError: naming what differs.
        """
        state = checkpoint.get("state_dict")
        if state is None:  # a sharded one is checked by PyTorch as it is read
            return
        theirs, ours = ({key: tuple(value.shape) for key, value in one.items()} for one in (state, self.state_dict()))
        differ = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
        if differ:
            key = differ[0]
            raise DataError(
                f"the checkpoint is of other networks: {len(differ)} weights differ, such as {key}: "
                f"{theirs.get(key, 'none')} there, {ours.get(key, 'none')} here. Resume a run with the values of "
                "hypernet= and task= that it was begun with (lora_rank, d_model ...)"
            )

    def diagnostics_due(self, batch_idx: int) -> bool:
        """Whether this training batch is one to look at closely; once for all batches of an accumulated step."""
        first = batch_idx % self.trainer.accumulate_grad_batches == 0
        return first and self.global_step % self._diagnostics_every == 0

    def condition_spread(self, inputs: Inputs) -> dict[str, Tensor]:
        """How much the tokens of each condition differ over the batch; near 0 an encoder has collapsed."""
        return {f"train/condition_spread_{kind}": value for kind, value in spreads(self.encoder, inputs).items()}

    def log_now(self, values: Mapping[str, Tensor]) -> None:
        """Writes values of this very step; `log` would repeat them at every later step of the epoch."""
        for logger in self.loggers:
            logger.log_metrics({name: float(value) for name, value in values.items()}, self.global_step)

    def configure_model(self) -> None:
        """Shards network and encoder where the strategy spreads a model over processes (FSDP2)."""
        if self.device_mesh is not None and not self._sharded:
            self._sharded = True
            shard(self.encoder, (), self.device_mesh)
            shard(self.network, self.network.units(), self.device_mesh)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One optimizer over network and encoder."""
        optimizer = self._optimizer([p for p in self.parameters() if p.requires_grad])
        if self._scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self._scheduler(optimizer), "interval": "step"}}

    def exact(self) -> torch.autocast:
        """A context in which losses are computed in full precision, also under bf16-mixed."""
        return torch.autocast(self.device.type, enabled=False)
