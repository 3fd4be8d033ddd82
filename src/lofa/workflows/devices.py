"""Devices by name."""

from typing import Any

import torch

from lofa.errors import ConfigError

__all__ = ["ACCELERATORS", "pick_device", "place_training"]

ACCELERATORS = {"cpu": "cpu", "cuda": "gpu", "mps": "gpu"}
"""Kind of device -> Lightning's word for it."""


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is a GPU where there is one.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ACCELERATORS:
            raise RuntimeError(f"no model runs on {device.type}")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device={name}: {str(error).splitlines()[0]}; give cpu, cuda, cuda:<number> or auto"
        ) from None
    return device


def place_training(device: str, accelerator: str, devices: Any) -> tuple[str, Any]:
    """Accelerator and devices of Lightning's trainer as `device` says; "auto" leaves them.

    A kind of device ("cuda") leaves the number to `devices`, one of several ("cuda:1") is the only one.

    Raises:
        ConfigError: no such device here, no such number of them, or `device` says another thing than the two.
    """
    devices = list(devices) if isinstance(devices, tuple) else devices
    numbers = devices if isinstance(devices, list) else [devices]
    if devices != "auto" and not (numbers and all(type(number) is int for number in numbers)):
        raise ConfigError(f"strategy.devices={devices}: give how many, a list of their numbers, or auto")
    if device == "auto":
        return accelerator, devices
    found = pick_device(device)
    kind = ACCELERATORS[found.type]
    if accelerator not in ("auto", kind, found.type):
        raise ConfigError(f"device={device} and trainer.accelerator={accelerator} contradict each other: leave one out")
    if found.type != "cpu" and found.index is not None:
        if devices not in (1, "auto", [found.index]):
            raise ConfigError(f"device={device} is one device, strategy.devices={devices} are others: leave one out")
        devices = [found.index]
    return kind, devices
