"""What a task is: conditions, metrics, and whose prompt an adapter is asked for with."""

from lofa.tasks.task import PROMPTS, Task

__all__ = ["PROMPTS", "Task"]
