"""Zoos: many LoRAs trained at once on one frozen backbone, each with its own clips.

`build_zoo` makes the files of a prepared set and `verify_zoo` checks them; `train_loras` is the training itself, for
clips at hand.
"""

from typing import TYPE_CHECKING

from lofa.lazy import lazy

if TYPE_CHECKING:
    from lofa.zoo.build import ZooReport, build_zoo
    from lofa.zoo.jobs import Clips, LoraJob, LoraResult, lora_seed, read_clips
    from lofa.zoo.options import LoraOptions, ZooOptions
    from lofa.zoo.plan import LoraPlan, plan_zoo
    from lofa.zoo.trainer import train_loras
    from lofa.zoo.verify import ZooAudit, verify_zoo
else:
    __getattr__, __dir__ = lazy(__name__, "options jobs plan trainer build verify")

__all__ = [
    "Clips",
    "LoraJob",
    "LoraOptions",
    "LoraPlan",
    "LoraResult",
    "ZooAudit",
    "ZooOptions",
    "ZooReport",
    "build_zoo",
    "lora_seed",
    "plan_zoo",
    "read_clips",
    "train_loras",
    "verify_zoo",
]
