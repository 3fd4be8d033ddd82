"""Keys of configurations that earlier versions wrote, as they are called now."""

from typing import Any

__all__ = ["new_key", "renew"]

_MOVED = {"baseline": "method.lora"}
"""Sections as they were called -> as they are called."""


def new_key(key: str) -> str:
    """A key of the command line under the name it has now."""
    section, dot, rest = key.partition(".")
    return f"{_MOVED[section]}.{rest}" if dot and section in _MOVED else key


def renew(settings: dict[str, Any]) -> dict[str, Any]:
    """What a run was started with, its old keys renamed.

    task.condition, task.encoder -> task.conditions.<condition>
    baseline -> method.lora
    strategy.plugin: null -> {}
    """
    settings = dict(settings)
    if "strategy" in settings:
        settings["strategy"] = {**settings["strategy"], "plugin": settings["strategy"].get("plugin") or {}}
    task = dict(settings.get("task", {}))
    if "condition" in task:
        settings["task"] = {**task, "conditions": {task["condition"]: task.get("encoder", {})}}
        for old in ("condition", "encoder"):
            settings["task"].pop(old, None)
    if "baseline" in settings:
        settings["method"] = {"lora": settings.pop("baseline")}
    return settings
