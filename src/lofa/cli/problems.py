"""A user's mistakes, found by us, Hydra or OmegaConf, as one message each: what, where, what exists, what to do."""

from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from lofa.errors import LofaError, WriteError, nearest
from lofa.faults import disk_fault

__all__ = ["explain", "first_line"]

_AGAIN = (
    "What was there before is whole. Make room and run the same command again; prepare, zoo and train go on with what "
    "is missing"
)
_LESS_MEMORY = (
    "Take less at once (zoo.batch, zoo.memory, zoo.accumulate; stages.s2.batch_size), or give "
    "backbone.gradient_checkpointing=true"
)


def explain(error: BaseException) -> str | None:
    """The message for a user's mistake; None for anything else, which is a fault of the program."""
    if isinstance(error, WriteError):
        return f"{error}. {_AGAIN if error.no_space else 'Give another place, or make it one that can be written'}"
    if isinstance(error, LofaError):
        return str(error)
    if isinstance(error, OverrideParseException):
        return _unreadable(error)
    if isinstance(error, MissingConfigException):
        return _missing_option(error)
    if isinstance(error, InstantiationException):
        where = str(error).partition("full_key: ")[2].split()
        return f"{where[0] if where else 'configuration'}: {first_line(error.__cause__ or error)}"
    if isinstance(error, OmegaConfBaseException):
        return _value(error)
    if isinstance(error, HydraException):
        cause = error.__cause__
        return _value(cause, error) if isinstance(cause, OmegaConfBaseException) else str(error).strip()
    if isinstance(error, ValueError) and _raiser(error).startswith("hydra."):
        hint = " (the name of one of its files; see --help)" if "group" in str(error) else ""
        return f"{str(error).strip()}{hint}"
    if type(error).__name__ == "OutOfMemoryError":  # PyTorch's
        return f"{first_line(error)} {_LESS_MEMORY}"
    if type(error).__module__.startswith("lightning."):  # its MisconfigurationException; importing it takes seconds
        return first_line(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    fault = disk_fault(error, "a file")  # of a writer that is not ours
    return explain(fault) if fault is not None and fault.no_space else None


def _raiser(error: BaseException) -> str:
    """Name of the module whose code raised."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return "" if frame is None else str(frame.tb_frame.f_globals.get("__name__", ""))


def first_line(error: BaseException) -> str:
    """The first line of a message; the name of the exception where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _unreadable(error: OverrideParseException) -> str:
    if "=" not in error.override:
        return f"can't read {error.override!r}: options are written key=value (see --help)"
    key = error.override.partition("=")[0]
    return (
        f"can't read {error.override!r}: the value of {key} is not in Hydra's grammar "
        f"(numbers, true/false, [a,b], or '\"text\"' in quotes inside quotes): {first_line(error)}"
    )


def _missing_option(error: MissingConfigException) -> str:
    if error.missing_cfg_file is None:
        return str(error).strip()
    group, _, name = error.missing_cfg_file.rpartition("/")
    return f"{group}={name}: no such option; {nearest(name, sorted(error.options or ()))}"


def _value(error: OmegaConfBaseException, wrapper: HydraException | None = None) -> str:
    key = error.full_key or error.key
    if isinstance(error, ConfigAttributeError | ConfigKeyError):
        parent = error.parent_node
        known = [str(name) for name in parent] if isinstance(parent, DictConfig) else []
        more = f"; +{key}=... gives it to the class all the same" if "_target_" in known else ""
        return f"unknown key {key}: {nearest(str(error.key), [name for name in known if name != 'hydra'])}{more}"
    if isinstance(error, MissingMandatoryValue):
        return f"{key} has no value: give {key}=..."
    if isinstance(error, ValidationError):
        return f"{key}={error.value!r}: {first_line(error)}"
    if isinstance(error, InterpolationResolutionError):
        return f"{key}: {first_line(error)}"
    source = f" ({first_line(wrapper)})" if isinstance(wrapper, ConfigCompositionException) else ""
    return f"{key}: {first_line(error)}{source}"
