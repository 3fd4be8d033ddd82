"""What tells one backbone from another: a hash of its denoiser's configuration and of a sample of its weights.

`<configuration>-<weights>`, 8 hexadecimal digits each; the configuration's alone where no weights are at hand, as where
a set is prepared with autoencoder and text encoder only.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

__all__ = ["SAMPLE", "Fingerprinted", "fingerprint_of_0_1", "hash_configs", "hash_samples", "sample_weights"]

SAMPLE = 4
"""Values of each tensor that are looked at."""


class Fingerprinted(Protocol):
    """What files are compared with."""

    @property
    def fingerprint(self) -> str:
        """What new files are stamped with."""

    def accepts(self, fingerprint: str | None) -> bool:
        """Whether a file with this stamp fits."""


def hash_configs(configs: Mapping[str, Mapping[str, Any]]) -> str:
    """Of component -> configuration."""
    kept = {
        component: {key: value for key, value in values.items() if not key.startswith("_")}
        for component, values in configs.items()
    }
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:8]


def sample_weights(network: nn.Module) -> dict[str, Tensor]:
    """The first values of each tensor of a network."""
    return {name: tensor.reshape(-1)[:SAMPLE] for name, tensor in network.state_dict().items()}


def hash_samples(samples: Mapping[str, Mapping[str, Tensor]]) -> str:
    """Of component -> tensor name -> its first values, in bfloat16, so that another precision is no other backbone."""
    digest = hashlib.sha256()
    for component, tensors in sorted(samples.items()):
        for name, values in sorted(tensors.items()):
            digest.update(f"{component}.{name}".encode())
            digest.update(values[:SAMPLE].detach().to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:8]


def fingerprint_of_0_1(networks: Mapping[str, nn.Module]) -> str:
    """What LoFA 0.1 called the fingerprint, of all networks of a pipeline. Remove it with the next version."""
    digest = hashlib.sha256()
    for name, module in sorted(networks.items()):
        config = getattr(module, "config", None)
        if isinstance(config, Mapping):  # diffusers'
            kept = {key: value for key, value in config.items() if not key.startswith("_")}
            digest.update(json.dumps([name, kept], sort_keys=True, default=str).encode())
        for path, parameter in module.named_parameters():
            flat = parameter.detach().reshape(-1)
            sample = flat[:: max(1, flat.numel() // 4)][:4]
            digest.update(path.encode())
            if not sample.is_meta:
                digest.update(sample.to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]
