"""Stage I: W + condition -> response map."""

from torch import Tensor

from lofa.backbones import Backbone
from lofa.hypernets import Hypernetwork, Response
from lofa.training.losses import response_loss
from lofa.training.module import OptimizerFactory, PairedBatch, PredictorModule, SchedulerFactory, check_least

__all__ = ["ResponseModule"]


class ResponseModule(PredictorModule):
    """Trains a response map on the layers that each batch brings.

    Args:
        penalty: weight of mean A^2 + mean B^2; the others as in `PredictorModule`
    """

    def __init__(
        self,
        hypernet: Hypernetwork,
        backbone: Backbone,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None = None,
        diagnostics_every: int = 50,
        penalty: float = 1e-4,
    ) -> None:
        super().__init__(hypernet, backbone, optimizer, scheduler, diagnostics_every)
        check_least(0, penalty=penalty)
        self._penalty = penalty

    def forward(self, batch: PairedBatch) -> list[Response]:
        """The response of each prompt on the layers of each of the batch's stacks, (P, L)."""
        return self.hypernet.response(self.hypernet.prepare(self.layers_of(batch)), batch.inputs)

    def training_step(self, batch: PairedBatch, batch_idx: int) -> Tensor:
        """Loss (); every `diagnostics_every` steps also precision, recall and cosine."""
        responses = self(batch)
        cross_entropy, penalty = self._losses(responses, batch)
        loss = cross_entropy + penalty
        self.log("train/loss", loss, prog_bar=True)
        self.log_dict({"train/cross_entropy": cross_entropy, "train/penalty": penalty})
        if self.diagnostics_due(batch_idx):
            agreed = self.agreement("train/response", responses, batch.stacks)
            self.log_now(agreed | self.condition_spread(batch.inputs))
        return loss

    def validation_step(self, batch: PairedBatch, batch_idx: int) -> None:
        """Logs loss, precision, recall and cosine over the validation set."""
        responses = self(batch)
        values = {"val/loss": sum(self._losses(responses, batch))}
        values |= self.agreement("val/response", responses, batch.stacks)
        self.log_dict(values, batch_size=len(batch.ids), sync_dist=True)

    def _losses(self, responses: list[Response], batch: PairedBatch) -> tuple[Tensor, Tensor]:
        weights = map(self.weights_of, batch.stacks)
        return response_loss(zip(responses, weights, batch.stacks, strict=True), self._penalty)
