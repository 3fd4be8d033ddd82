"""What the LightningModules of both stages share: frozen layers, optimizer, sharding. No architecture, no formula."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lofa.adapters import LoraBatch
from lofa.backbones import Backbone
from lofa.conditions import Inputs, spreads
from lofa.errors import DataError
from lofa.hypernets import FrozenLayer, Hypernetwork
from lofa.hypernets.layers import check_weights
from lofa.hypernets.old_names import renamed
from lofa.training.batch import PairedBatch
from lofa.training.sharding import shard

__all__ = ["OptimizerFactory", "PredictorModule", "SchedulerFactory", "check_least"]

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler]


def check_least(least: float, **values: float) -> None:
    """Refuses values below `least` by their names (ValueError)."""
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least:g}; got {value}")


class FrozenLayers:
    """W, depth and kind of a backbone's layers by name.

    Each W is kept as the backbone gives it: its denoiser's own tensor where that has been made, else read from file
    once, when it is first asked for. It is copied to another device alone, and never stacked.

    Raises:
        DataError: weights that are not finite, or have columns of zeros.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.names = tuple(layer.name for layer in backbone.layers)
        try:
            check_weights(map(backbone.weight, self.names), self.names)
        except ValueError as error:
            raise DataError(f"backbone {backbone.name!r}: {error}; load it from a whole file") from None
        self._backbone = backbone
        ids = zip(backbone.depth_ids.tolist(), backbone.kind_ids.tolist(), strict=True)
        self._ids = dict(zip(self.names, ids, strict=True))
        self._weights: dict[str, Tensor] = {}

    def weight(self, name: str, device: torch.device) -> Tensor:
        """W (out, in) of a layer."""
        weight = self._weights.get(name)
        if weight is None or weight.device != device:
            weight = self._weights[name] = self._backbone.weight(name).to(device)
        return weight

    def layers(self, names: Iterable[str], device: torch.device) -> Iterator[FrozenLayer]:
        """Layers as a hypernetwork reads them."""
        for name in names:
            yield FrozenLayer(name, self.weight(name, device), *self._ids[name])


class PredictorModule(LightningModule):
    """Trains the last part of a hypernetwork, and nothing else; checkpoints hold that part alone.

    Args:
        hypernet: a member of `HYPERNETS`
        backbone: frozen; gives the weights W of its layers
        optimizer: parameters -> optimizer
        scheduler: optimizer -> schedule stepped every optimizer step; None keeps the rate
        diagnostics_every: optimizer steps between the costly diagnostics
    """

    def __init__(
        self,
        hypernet: Hypernetwork,
        backbone: Backbone,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None = None,
        diagnostics_every: int = 50,
    ) -> None:
        super().__init__()
        self.hypernet = hypernet
        self.frozen = FrozenLayers(backbone)
        self._optimizer = optimizer
        self._scheduler = scheduler
        check_least(1, diagnostics_every=diagnostics_every)
        self._diagnostics_every = diagnostics_every
        self._sharded = False

    def layers_of(self, batch: PairedBatch) -> Iterator[FrozenLayer]:
        """The layers of a batch's stacks, one after the other.

        Raises:
            DataError: the adapters are for layers of another size.
        """
        for stack in batch.stacks:
            for layer in self.frozen.layers(stack.layers, self.device):
                if stack.shape != layer.shape:
                    raise DataError(
                        f"the adapters of {', '.join(batch.ids[:3])} are for layers of {stack.shape}, "
                        f"the backbone's are {layer.shape}; build the zoo for this backbone"
                    )
                yield layer

    def weights_of(self, stack: LoraBatch) -> list[Tensor]:
        """The L matrices W (out, in) of a stack, not copied."""
        return [self.frozen.weight(name, self.device) for name in stack.layers]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint of other networks; takes one of version 1, whose part had no name.

        Raises:
            DataError: naming what differs.
        """
        state = checkpoint.get("state_dict")
        if state is None:  # a sharded one is checked by PyTorch as it is read
            return
        if any(key.startswith("network.") for key in state):
            state = {f"hypernet.trained.{key}": value for key, value in renamed(state).items()}
            checkpoint["state_dict"] = state
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
        return {
            f"train/condition_spread_{kind}": value for kind, value in spreads(self.hypernet.encoder, inputs).items()
        }

    def log_now(self, values: Mapping[str, Tensor]) -> None:
        """Writes values of this very step; `log` would repeat them at every later step of the epoch."""
        for logger in self.loggers:
            logger.log_metrics({name: float(value) for name, value in values.items()}, self.global_step)

    def configure_model(self) -> None:
        """Shards the hypernetwork where the strategy spreads a model over processes (FSDP2)."""
        if self.device_mesh is not None and not self._sharded:
            self._sharded = True
            shard(self.hypernet, self.hypernet.units(), ("prepare", "predict", "response"), self.device_mesh)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One optimizer over what is trained."""
        optimizer = self._optimizer([p for p in self.parameters() if p.requires_grad])
        if self._scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self._scheduler(optimizer), "interval": "step"}}

    def exact(self) -> torch.autocast:
        """A context in which losses are computed in full precision, also under bf16-mixed."""
        return torch.autocast(self.device.type, enabled=False)
