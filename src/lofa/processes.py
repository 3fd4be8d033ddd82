"""Which of several processes of one training this one is."""

import os

__all__ = ["is_first_process"]


def is_first_process() -> bool:
    """Whether this process writes files (Lightning and torchrun number the processes in the environment)."""
    return all(os.environ.get(key, "0") == "0" for key in ("RANK", "LOCAL_RANK", "NODE_RANK"))
