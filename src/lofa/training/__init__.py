"""Training of the predictor: one LightningModule a stage over finished objects."""

from lofa.training.adapter_module import AdapterModule
from lofa.training.agreement import agreement
from lofa.training.checkpoints import LAST, AtomicCheckpointIO, Checkpoints
from lofa.training.clips import SampleClips
from lofa.training.csv_log import CsvLog
from lofa.training.losses import delta_loss, gradient_shares, response_loss, response_target
from lofa.training.module import PairedBatch, PredictorModule
from lofa.training.progress import StepBar
from lofa.training.response_module import ResponseModule
from lofa.training.schedules import warmup_schedule
from lofa.training.stopping import StopOnNonFinite, StopRequest, TrainingDiverged, TrainingStopped

__all__ = [
    "LAST",
    "AdapterModule",
    "AtomicCheckpointIO",
    "Checkpoints",
    "CsvLog",
    "PairedBatch",
    "PredictorModule",
    "ResponseModule",
    "SampleClips",
    "StepBar",
    "StopOnNonFinite",
    "StopRequest",
    "TrainingDiverged",
    "TrainingStopped",
    "agreement",
    "delta_loss",
    "gradient_shares",
    "response_loss",
    "response_target",
    "warmup_schedule",
]
