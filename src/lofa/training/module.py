"""What the LightningModules of both stages share: frozen layers, optimizer, sharding. No architecture, no formula."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lofa.adapters import LoraBatch
from lofa.backbones import Backbone
from lofa.conditions import Condition, Inputs, spreads
from lofa.errors import ConfigError, DataError
from lofa.hypernets import FrozenLayer, Hypernetwork, Response
from lofa.hypernets.layers import check_weights
from lofa.hypernets.old_names import renamed
from lofa.training.agreement import agreement

__all__ = ["OptimizerFactory", "PairedBatch", "PredictorModule", "SchedulerFactory", "check_least"]

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler]


class PairedBatch(Protocol):
    """P prompts with their true adapters: whatever data module yields this can train the modules."""

    ids: Sequence[str]
    """P sample ids"""
    inputs: Inputs
    """kind of condition -> what its encoder takes: text tokens (P, N, C), joints (P, T, J, 2) ..."""
    prompt: Condition
    """the backbone's own text condition of the P captions"""
    latents: Tensor | None
    """(P, C, T, H, W), or None where only adapters are needed (stage I)"""
    stacks: Sequence[LoraBatch]
    """the adapters, the layers of each shape by themselves"""


def check_least(least: float, **values: float) -> None:
    """Refuses values below `least` by their names (ValueError)."""
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least:g}; got {value}")


class PredictorModule(LightningModule):
    """Trains the last part of a hypernetwork, and nothing else; checkpoints hold that part alone.

    Args:
        hypernet: a member of `HYPERNETS`
        backbone: frozen; gives the weights W of its layers
        optimizer: parameters -> optimizer
        scheduler: optimizer -> schedule stepped every optimizer step; None keeps the rate
        diagnostics_every: optimizer steps between the costly diagnostics

    Raises:
        DataError: weights that are not finite, or have columns of zeros.
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
        check_least(1, diagnostics_every=diagnostics_every)
        names = [layer.name for layer in backbone.layers]
        try:
            check_weights(map(backbone.weight, names), names)
        except ValueError as error:
            raise DataError(f"backbone {backbone.name!r}: {error}; load it from a whole file") from None
        self.hypernet, self.backbone = hypernet, backbone
        ids = zip(backbone.depth_ids.tolist(), backbone.kind_ids.tolist(), strict=True)
        self._ids = dict(zip(names, ids, strict=True))
        self._weights: dict[str, Tensor] = {}
        self._optimizer, self._scheduler = optimizer, scheduler
        self._diagnostics_every = diagnostics_every

    def weight(self, name: str) -> Tensor:
        """W (out, in) of a layer, where the network is.

        It is the denoiser's own tensor where that has been made, else read from file once, when it is first asked for;
        it is copied to another device alone, and never stacked.
        """
        weight = self._weights.get(name)
        if weight is None or weight.device != self.device:
            weight = self._weights[name] = self.backbone.weight(name).to(self.device)
        return weight

    def weights_of(self, stack: LoraBatch) -> list[Tensor]:
        """The L matrices W (out, in) of a stack, not copied."""
        return [self.weight(name) for name in stack.layers]

    def layers(self, names: Iterable[str]) -> Iterator[FrozenLayer]:
        """Layers as a hypernetwork reads them."""
        for name in names:
            yield FrozenLayer(name, self.weight(name), *self._ids[name])

    def layers_of(self, batch: PairedBatch) -> Iterator[FrozenLayer]:
        """The layers of a batch's stacks, one after the other (DataError: they have another size)."""
        for stack in batch.stacks:
            for layer in self.layers(stack.layers):
                if stack.shape != layer.shape:
                    wrong = f"the adapter of {batch.ids[0]} is for a layer {stack.shape}"
                    raise DataError(f"{layer.name}: {wrong}, the backbone's is {layer.shape}")
                yield layer

    def agreement(
        self, name: str, predicted: Sequence[Response | LoraBatch], true: Sequence[LoraBatch]
    ) -> dict[str, Tensor]:
        """`<name>_precision` ... of response maps, or those that adapters imply, with those that `true` implies."""
        parts = zip(predicted, map(self.weights_of, true), true, strict=True)
        return {f"{name}_{key}": value for key, value in agreement(parts, self.hypernet.tau).items()}

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
        for key in {**ours, **theirs}:
            there, here = theirs.get(key, "none"), ours.get(key, "none")
            if there != here:
                raise DataError(
                    f"the checkpoint is of other networks, {key}: {there} there, {here} here; resume with the values "
                    "of hypernet= and task= that the run was begun with"
                )

    def diagnostics_due(self, batch_idx: int) -> bool:
        """Whether this training batch is one to look at closely; once for all batches of an accumulated step."""
        first = batch_idx % self.trainer.accumulate_grad_batches == 0
        return first and self.global_step % self._diagnostics_every == 0

    def condition_spread(self, inputs: Inputs) -> dict[str, Tensor]:
        """How much the tokens of each condition differ over the batch; near 0 an encoder has collapsed."""
        found = spreads(self.hypernet.encoder, inputs)
        return {f"train/condition_spread_{kind}": value for kind, value in found.items()}

    def log_now(self, values: Mapping[str, Tensor]) -> None:
        """Writes values of this very step; `log` would repeat them at every later step of the epoch."""
        for logger in self.loggers:
            logger.log_metrics({name: float(value) for name, value in values.items()}, self.global_step)

    def configure_model(self) -> None:
        """Shards the hypernetwork, unit by unit, where the strategy spreads a model over processes (FSDP2).

        All processes start from the parameters of the first.

        Raises:
            ConfigError: the strategy asks for tensor parallelism.
        """
        if self.device_mesh is None or isinstance(self.hypernet, FSDPModule):
            return
        if self.device_mesh["tensor_parallel"].size() > 1:
            raise ConfigError("strategy.plugin.tensor_parallel_size: must be 1, the processes share the data alone")
        for parameter in self.hypernet.parameters():
            torch.distributed.broadcast(parameter.data, 0)
        for unit in (*self.hypernet.units(), self.hypernet):
            fully_shard(unit, mesh=self.device_mesh["data_parallel"])
        for method in ("prepare", "predict", "response"):  # they are called instead of forward
            register_fsdp_forward_method(self.hypernet, method)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One optimizer over what is trained."""
        optimizer = self._optimizer([p for p in self.parameters() if p.requires_grad])
        if self._scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self._scheduler(optimizer), "interval": "step"}}
