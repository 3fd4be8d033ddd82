"""What goes wrong through no fault of the code: one message saying what, where, what exists and what to do.

The command line prints the message of a `LofaError` and exits with code 2, without a traceback.
"""

import difflib
from collections.abc import Iterable

__all__ = [
    "AdapterFormatError",
    "BackboneError",
    "ConfigError",
    "DataError",
    "Interrupted",
    "LofaError",
    "TargetError",
    "WriteError",
    "nearest",
]


class LofaError(Exception):
    """A mistake a user can make and mend; the message names the file or key and the way out."""


class AdapterFormatError(LofaError):
    """An adapter file that is unknown, damaged or foreign."""


class BackboneError(LofaError):
    """A backbone that can't be found, loaded or used as asked."""


class ConfigError(LofaError):
    """A wrong key or value in the configuration."""


class DataError(LofaError):
    """A data set, sample or zoo file that is missing, damaged or made for something else."""


class TargetError(LofaError):
    """Something stands where a file or folder is to be written, and is left as it is."""


class WriteError(LofaError):
    """What the disk refuses: it is full or read only, the folder belongs to others, the quota is used up.

    Args:
        place: the file or folder that was to be written, by its own name
        reason: in words
        no_space: making room is the way out
    """

    def __init__(self, place: object, reason: str, no_space: bool = False) -> None:
        super().__init__(place, reason, no_space)
        self.place, self.reason, self.no_space = place, reason, no_space

    def __str__(self) -> str:
        return f"{self.place}: not written, {self.reason}"


class Interrupted(LofaError):
    """A command that a signal ended; the message says how to go on. The exit code is 130."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause that names what exists: near spellings of `name` if there are, otherwise everything, or the first 20."""
    names = [str(item) for item in known]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(near)}?"
    more = f", ... ({len(names)} in all)" if len(names) > 20 else ""
    return f"there are: {', '.join(names[:20]) or 'none'}{more}"
