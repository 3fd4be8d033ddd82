"""The one wrapper around every command: Hydra's application with verbatim text and one message for a user's mistake.

arguments -> text quoted -> Hydra composes -> options built and checked -> task(options) -> 0
                                 |  mistake            |  mistake             |  mistake
                                 +-----------> one message, 2 <---------------+
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hydra import version
from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf

from lofa.cli.blueprints import drop_leftovers
from lofa.cli.options import build, list_options, schema
from lofa.cli.pages import command_page
from lofa.cli.problems import explain
from lofa.cli.text import plain_arguments, quote_text
from lofa.errors import ConfigError, Interrupted, LofaError
from lofa.processes import is_first_process
from lofa.resources import conf_dir
from lofa.workflows.old_keys import new_key

__all__ = ["Command", "given_overrides", "run"]

_FULL_ERROR = "HYDRA_FULL_ERROR"  # Hydra's own switch: exceptions come through instead of being printed by Hydra


@dataclass(frozen=True)
class Command:
    """A command: `conf/<name>.yaml`, as an object of `schema`, given to `task`.

    The schema enters the composition as the config `<name>_schema`, first in the defaults list of the yaml file.
    The comment that the yaml file begins with says what the command is for, and shows whole command lines.
    task: a function, or where it lies, imported only when it runs. sections: parts of the configuration that the help
    page shows. aliases: keys as users write them -> fields. program: how a user calls it, where it is not lofa <name>.
    """

    name: str
    schema: type
    task: str | Callable[[Any], object]
    sections: str = ""
    aliases: Mapping[str, str] = field(default_factory=dict)
    program: str = ""

    def register(self) -> None:
        """Makes the schema known to Hydra."""
        ConfigStore.instance().store(name=f"{self.name}_schema", node=schema(self.schema), provider="lofa")

    @property
    def text_keys(self) -> frozenset[str]:
        """Keys whose values are taken verbatim."""
        return frozenset(item.name for item in list_options(self.schema) if item.verbatim)


def run(command: Command, arguments: Sequence[str]) -> int:
    """Runs a command with command-line arguments (the program's name left out).

    Returns:
        0; 2 after a user's mistake, 130 after a signal, in one message on stderr. With HYDRA_FULL_ERROR=1 in the
        environment the exception is raised instead. Other exceptions always are: they are faults of the program.
    """
    command.register()
    named = [_rename(argument, command.aliases) for argument in arguments]
    parser = get_args_parser()
    given = parser.parse_args(quote_text(named, command.text_keys))
    verbose = os.environ.get(_FULL_ERROR) == "1"
    try:
        if given.help:
            print(command_page(command, given.overrides), end="")
            return 0
        version.setbase("1.3")
        with _full_error(True):
            _run_hydra(
                args=given,
                args_parser=parser,
                task_function=_job(command, _start(arguments), verbose),
                config_path=str(conf_dir()),
                config_name=command.name,
            )
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt:
        if verbose:
            raise
        return _report(
            command, Interrupted("stopped; what is finished is kept, the same command goes on with the rest")
        )
    except Exception as error:
        return _report(command, _explained(error, verbose))
    return 0


def _report(command: Command, error: LofaError) -> int:
    """Prints the message and gives the exit code."""
    interrupted = isinstance(error, Interrupted)
    if not interrupted or is_first_process():  # others add nothing to the first, and Lightning ends all where one does
        print(f"{command.program or f'lofa {command.name}'}: {error}", file=sys.stderr)
    return 130 if interrupted else 2


def _explained(error: Exception, verbose: bool) -> LofaError:
    """The message for the user alone, which can travel from another process; raises what is a fault of the program."""
    message = explain(error)
    if verbose or message is None:
        raise error
    return (Interrupted if isinstance(error, Interrupted) else LofaError)(message)


def _rename(argument: str, aliases: Mapping[str, str]) -> str:
    key, equals, value = argument.partition("=")
    return f"{aliases.get(key, new_key(key))}{equals}{value}"


def _start(arguments: Sequence[str]) -> list[str]:
    """How the program was called, without the arguments."""
    place = len(sys.argv) - len(arguments)
    return sys.argv[:place] if sys.argv[place:] == list(arguments) else sys.argv[:1]


def _job(command: Command, start: list[str], verbose: bool) -> Callable[[DictConfig], object]:
    """The function that Hydra calls, once or once a job of a sweep.

    In a sweep `sys.argv` is the command line of the one job while it runs, begun as the program was (`start`):
    Lightning calls it again for the further processes of a training.
    """

    def job(config: DictConfig) -> object:
        alone, before = HydraConfig.get().mode == RunMode.RUN, sys.argv
        try:
            _check_missing(command, config)
            drop_leftovers(config, given_overrides())
            options = build(config)
            if not alone:
                sys.argv = [*start, *plain_arguments(_override_lines(), command.text_keys)]
            with _full_error(verbose):  # as the user has it: processes that the task starts read it too
                return (get_method(command.task) if isinstance(command.task, str) else command.task)(options)
        except Exception as error:
            explained = _explained(error, verbose)
            if alone:  # Hydra would print its overrides before it raises
                raise SystemExit(_report(command, explained)) from None
            raise explained from None
        finally:
            sys.argv = before

    return job


def given_overrides() -> list[Override]:
    """The overrides of the job that runs now."""
    return OverridesParser.create().parse_overrides(_override_lines())


def _override_lines() -> list[str]:
    """The same in Hydra's grammar; their escapes are left as they are."""
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
