"""Methods compared on held-out prompts: scores with intervals, metrics.json and a report."""

from typing import TYPE_CHECKING

from lofa.lazy import lazy

if TYPE_CHECKING:
    from lofa.evaluation.bootstrap import Interval
    from lofa.evaluation.cases import Case, plan_cases
    from lofa.evaluation.change import LayerChange, measure_change, say_change, total_relative
    from lofa.evaluation.curves import Curves, read_curves
    from lofa.evaluation.grids import Grid, draw_grids
    from lofa.evaluation.maps import LayerMaps, response_maps
    from lofa.evaluation.methods import Method, Timing, base_method, lofa_method, lora_method, prompts_of, shuffled
    from lofa.evaluation.options import Protocol
    from lofa.evaluation.protocol import METRICS, Evaluation, PromptScores, evaluate
    from lofa.evaluation.report import write_curves, write_report
    from lofa.evaluation.scoring import Judges
else:
    __getattr__, __dir__ = lazy(
        __name__, "options bootstrap cases change curves grids maps methods protocol report scoring"
    )

__all__ = [
    "METRICS",
    "Case",
    "Curves",
    "Evaluation",
    "Grid",
    "Interval",
    "Judges",
    "LayerChange",
    "LayerMaps",
    "Method",
    "PromptScores",
    "Protocol",
    "Timing",
    "base_method",
    "draw_grids",
    "evaluate",
    "lofa_method",
    "lora_method",
    "measure_change",
    "plan_cases",
    "prompts_of",
    "read_curves",
    "response_maps",
    "say_change",
    "shuffled",
    "total_relative",
    "write_curves",
    "write_report",
]
