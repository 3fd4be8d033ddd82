"""Devices by name."""

import torch

from lofa.errors import ConfigError

__all__ = ["ACCELERATORS", "pick_device"]

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
