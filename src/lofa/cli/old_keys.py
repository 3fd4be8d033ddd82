"""Keys of configurations that earlier versions wrote, as they are called now."""

from typing import Any

from omegaconf import DictConfig

__all__ = ["new_key", "renew"]

_MOVED = {"baseline": "method.lora"}
"""Sections as they were called -> as they are called."""


def new_key(key: str) -> str:
    """A key of the command line under the name it has now."""
    section, dot, rest = key.partition(".")
    return f"{_MOVED[section]}.{rest}" if dot and section in _MOVED else key


def renew(config: DictConfig) -> DictConfig:
    """A run's configuration with its old keys renamed.

    task.condition, task.encoder -> task.conditions.<condition>
    baseline -> method.lora
    """
    loose: Any = config
    task: Any = config.get("task")
    if task is not None and "condition" in task:
        task["conditions"] = {task.pop("condition"): task.pop("encoder", {})}
    if "baseline" in loose:
        loose["method"] = {"lora": loose.pop("baseline")}
    return config
