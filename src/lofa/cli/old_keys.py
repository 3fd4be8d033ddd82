"""Keys of configurations that earlier versions wrote, as they are called now."""

from typing import Any

from omegaconf import DictConfig

__all__ = ["renew"]


def renew(config: DictConfig) -> DictConfig:
    """A run's configuration with its old keys renamed.

    task.condition, task.encoder -> task.conditions.<condition>
    """
    task: Any = config.get("task")
    if task is not None and "condition" in task:
        task["conditions"] = {task.pop("condition"): task.pop("encoder", {})}
    return config
