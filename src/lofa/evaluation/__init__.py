"""Methods compared on held-out prompts: scores with intervals, metrics.json and a report."""

from typing import TYPE_CHECKING

from lofa.lazy import lazy

if TYPE_CHECKING:
    from lofa.evaluation.cases import Case, plan_cases
    from lofa.evaluation.change import LayerChange, measure_change, say_change, total_relative
    from lofa.evaluation.charts import Grid, draw_grids
    from lofa.evaluation.curves import Series, read_curves
    from lofa.evaluation.maps import maps_of_methods, response_maps
    from lofa.evaluation.methods import (
        Base,
        ClassLora,
        Comparison,
        Method,
        Predicted,
        Recipe,
        SharedLora,
        Timing,
        make_methods,
        shuffled,
    )
    from lofa.evaluation.options import Protocol
    from lofa.evaluation.protocol import Evaluation, evaluate
    from lofa.evaluation.report import write_curves, write_report
    from lofa.evaluation.scoring import Metrics, check_needs
    from lofa.evaluation.tables import closing_table
else:
    __getattr__, __dir__ = lazy(
        __name__, "options cases change curves charts maps methods protocol report scoring tables"
    )

__all__ = [
    "Base",
    "Case",
    "ClassLora",
    "Comparison",
    "Evaluation",
    "Grid",
    "LayerChange",
    "Method",
    "Metrics",
    "Predicted",
    "Protocol",
    "Recipe",
    "Series",
    "SharedLora",
    "Timing",
    "check_needs",
    "closing_table",
    "draw_grids",
    "evaluate",
    "make_methods",
    "maps_of_methods",
    "measure_change",
    "plan_cases",
    "read_curves",
    "response_maps",
    "say_change",
    "shuffled",
    "total_relative",
    "write_curves",
    "write_report",
]
