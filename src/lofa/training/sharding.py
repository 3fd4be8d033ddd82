"""FSDP2: parameters, gradients and optimizer states of a hypernetwork spread over the processes."""

from collections.abc import Iterable

import torch.distributed
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from lofa.errors import ConfigError

__all__ = ["shard"]


def shard(module: nn.Module, units: Iterable[nn.Module], methods: Iterable[str], mesh: DeviceMesh) -> None:
    """Shards a module in place over the data-parallel axis of `mesh`: each of `units` by itself, then the rest.

    `methods` are those that are called instead of forward.

    All processes start from the parameters of the first.

    Raises:
        ConfigError: the mesh asks for tensor parallelism.
    """
    if "tensor_parallel" in (mesh.mesh_dim_names or ()) and mesh["tensor_parallel"].size() > 1:
        raise ConfigError(
            "strategy: hypernetworks are sharded over data-parallel processes only; set data_parallel_size to the "
            "number of processes and tensor_parallel_size to 1"
        )
    for parameter in module.parameters():
        torch.distributed.broadcast(parameter.data, 0)
    data_parallel = mesh["data_parallel"]
    for unit in units:
        fully_shard(unit, mesh=data_parallel)
    fully_shard(module, mesh=data_parallel)
    for method in methods:
        register_fsdp_forward_method(module, method)
