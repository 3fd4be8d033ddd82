"""Workflows: what the commands do, as functions over objects, to be called from a script or notebook as well."""

from typing import TYPE_CHECKING

from lofa.lazy import lazy

if TYPE_CHECKING:
    from lofa.workflows.adapters import check_adapter, export_adapter, merge
    from lofa.workflows.clips import Comparison, check_clip_path, compare_clips, difference, side_by_side, write_clip
    from lofa.workflows.devices import pick_device, place_training
    from lofa.workflows.evaluation import evaluate, write_evaluation
    from lofa.workflows.finetuning import FineTuning, curve_files, finetune
    from lofa.workflows.inspection import inspect
    from lofa.workflows.networks import build_encoder, build_hypernet, check_kinds, hypernet_kind, load_earlier
    from lofa.workflows.runs import find_run, finish_run, read_settings, reserve_run, start_run
    from lofa.workflows.training import Trained, quieten_lightning, train_stage
    from lofa.workflows.zoo import check_zoo, train_zoo
else:
    __getattr__, __dir__ = lazy(
        __name__, "devices runs clips adapters evaluation finetuning inspection networks training zoo"
    )

__all__ = [
    "Comparison",
    "FineTuning",
    "Trained",
    "build_encoder",
    "build_hypernet",
    "check_adapter",
    "check_clip_path",
    "check_kinds",
    "check_zoo",
    "compare_clips",
    "curve_files",
    "difference",
    "evaluate",
    "export_adapter",
    "find_run",
    "finetune",
    "finish_run",
    "hypernet_kind",
    "inspect",
    "load_earlier",
    "merge",
    "pick_device",
    "place_training",
    "quieten_lightning",
    "read_settings",
    "reserve_run",
    "side_by_side",
    "start_run",
    "train_stage",
    "train_zoo",
    "write_clip",
    "write_evaluation",
]
