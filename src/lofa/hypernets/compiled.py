"""`torch.compile` for the blocks of the hypernetworks, ours and the published ones."""

from torch import nn

from lofa.hypernets.blocks import Block, ReadBlock

__all__ = ["compile_blocks"]


def compile_blocks(network: nn.Module) -> None:
    """Compiles every block of a network when it is first called; parameters and their names stay.

    One by one, as all blocks of a kind share what was compiled.
    """
    for module in network.modules():
        if isinstance(module, Block | ReadBlock):
            module.compile()
