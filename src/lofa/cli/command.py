"""The one wrapper around every command: Hydra's application with verbatim text and one message for a user's mistake.

arguments -> text quoted -> Hydra composes and checks -> task(config) -> 0
                                    |  mistake               |  mistake
                                    +-> one message, 2 <-----+
"""

import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf

from lofa.cli.old_keys import new_key
from lofa.cli.options import check_numbers, list_options
from lofa.cli.pages import command_page
from lofa.cli.problems import explain
from lofa.cli.runs import is_first_process
from lofa.cli.text import plain_arguments, quote_text
from lofa.errors import ConfigError, Interrupted, LofaError
from lofa.resources import conf_dir

__all__ = ["Command", "current_overrides", "run"]

_FULL_ERROR = "HYDRA_FULL_ERROR"  # Hydra's own switch: exceptions come through instead of being printed by Hydra


@dataclass(frozen=True)
class Command:
    """A command: `conf/<name>.yaml` checked against `schema`, given to `task`.

    The schema enters the composition as the config `<name>_schema`, first in the defaults list of the yaml file.
    summary: one line. examples: whole command lines. sections: parts of the configuration that the command reads, for
    the help page. aliases: keys as users write them -> fields, for keys that are no names in Python. program: how a
    user calls it.
    """

    name: str
    schema: type
    task: Callable[[Any], object]
    summary: str
    examples: tuple[str, ...]
    sections: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    program: str = ""

    def register(self) -> None:
        """Makes the schema known to Hydra."""
        ConfigStore.instance().store(name=f"{self.name}_schema", node=self.schema, provider="lofa")

    @property
    def text_keys(self) -> frozenset[str]:
        """Keys whose values are taken verbatim."""
        return frozenset(item.name for item in list_options(self.schema) if item.verbatim)


def run(command: Command, arguments: Sequence[str]) -> int:
    """Runs a command with command-line arguments (the program's name left out).

    Returns:
        0; 2 after a user's mistake, 130 after a signal, told in one message on stderr. With HYDRA_FULL_ERROR=1 in the
        environment the exception is raised instead. Other exceptions always are: they are faults of the program.
    """
    program = command.program or f"lofa {command.name}"
    command.register()
    if {"--help", "-h"} & set(arguments):
        print(_help_page(command, program), end="")
        return 0
    ends: list[LofaError] = []
    before = list(sys.argv)
    start = (
        before[: len(before) - len(arguments)]
        if before[len(before) - len(arguments) :] == list(arguments)
        else before[:1]
    )
    application = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=command.name)
    verbose = os.environ.get(_FULL_ERROR) == "1"
    named = [_rename(argument, command.aliases) for argument in arguments]
    with _environment([program, *quote_text(named, command.text_keys)]):
        try:
            application(_job(command, start, ends, verbose))()
        except KeyboardInterrupt:
            if verbose:
                raise
            ends.append(Interrupted("stopped; what is finished is kept, the same command goes on with the rest"))
        except Exception as error:
            ends.append(_told(error, verbose))
    if not is_first_process():  # it has nothing to add to the first, and Lightning kills all where one fails
        ends = [end for end in ends if not isinstance(end, Interrupted)]
    for end in ends:
        print(f"{program}: {end}", file=sys.stderr)
    return max((130 if isinstance(end, Interrupted) else 2 for end in ends), default=0)


def _told(error: Exception, verbose: bool) -> LofaError:
    """The message for the user alone, which can travel from another process; raises what is a fault of the program."""
    message = explain(error)
    if verbose or message is None:
        raise error
    return (Interrupted if isinstance(error, Interrupted) else LofaError)(message)


def _rename(argument: str, aliases: Mapping[str, str]) -> str:
    key, equals, value = argument.partition("=")
    return f"{aliases.get(key, new_key(key))}{equals}{value}"


def _help_page(command: Command, program: str) -> str:
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        defaults = hydra.compose(command.name)
    shown = {name: alias for alias, name in command.aliases.items()}
    options = [
        replace(
            item, name=shown.get(item.name, item.name), default=OmegaConf.select(defaults, item.name, default=MISSING)
        )
        for item in list_options(command.schema)
        if "." not in item.name or item.name.partition(".")[0] in command.sections
    ]
    return command_page(program, command.name, command.summary, command.examples, options)


def _job(command: Command, start: list[str], ends: list[LofaError], verbose: bool) -> Callable[[DictConfig], object]:
    """The function that Hydra calls, once or once a job of a sweep.

    `start` is how the program was called, without arguments: while the job runs, `sys.argv` is the command line of this
    one job, which Lightning calls again to start further processes.
    """

    @functools.wraps(command.task)
    def job(config: DictConfig) -> object:
        try:
            _check_missing(command, config)
            check_numbers(config)
            sys.argv = [*start, *plain_arguments(current_overrides(), command.text_keys)]
            with _full_error(verbose):  # as the user has it: processes that the task starts read it too
                return command.task(config)
        except Exception as error:
            told = _told(error, verbose)
            if HydraConfig.get().mode == RunMode.RUN:
                ends.append(told)  # what Hydra would print before raising is no news to the user
                return None
            raise told from None

    return job


def current_overrides() -> list[str]:
    """The overrides of the job that runs now, in Hydra's grammar; their escapes are left as they are."""
    overrides = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    assert isinstance(overrides, list)
    return [str(override) for override in overrides]


def _check_missing(command: Command, config: DictConfig) -> None:
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        helps = {item.name: item.help for item in list_options(command.schema)}
        wanted = "; ".join(f"{key}=... ({helps[key]})" if helps.get(key) else f"{key}=..." for key in missing)
        raise ConfigError(f"a value is missing: give {wanted}")


@contextmanager
def _environment(arguments: list[str]) -> Iterator[None]:
    """Hydra reads the command line from `sys.argv` and the wish for exceptions from the environment."""
    before, sys.argv = sys.argv, arguments
    try:
        with _full_error(True):
            yield
    finally:
        sys.argv = before


@contextmanager
def _full_error(wanted: bool) -> Iterator[None]:
    """Sets Hydra's switch for the length of the block."""
    before = os.environ.pop(_FULL_ERROR, None)
    if wanted:
        os.environ[_FULL_ERROR] = "1"
    try:
        yield
    finally:
        os.environ.pop(_FULL_ERROR, None)
        if before is not None:
            os.environ[_FULL_ERROR] = before
