"""Devices and precisions by name."""

import torch

from lofa.errors import ConfigError, nearest

__all__ = ["ACCELERATORS", "pick_device", "pick_dtype"]

ACCELERATORS = {"cpu": "cpu", "cuda": "gpu", "mps": "gpu"}
"""Kind of device -> Lightning's word for it."""

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float8_e4m3fn": torch.float8_e4m3fn,
}


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


def pick_dtype(name: str | None) -> torch.dtype | None:
    """The floating-point type of that name, None for None (ConfigError for another name)."""
    if name is not None and name not in _DTYPES:
        raise ConfigError(f"dtype={name}: {nearest(name, _DTYPES)}")
    return None if name is None else _DTYPES[name]
