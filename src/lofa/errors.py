"""What goes wrong through no fault of the code: one message saying what, where, what exists and what to do.

The command line prints the message of a `LofaError` and exits with code 2, without a traceback.
"""

__all__ = ["AdapterFormatError", "BackboneError", "ConfigError", "DataError", "Interrupted", "LofaError"]


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


class Interrupted(LofaError):
    """A command that a signal ended; the message says how to go on. The exit code is 130."""
