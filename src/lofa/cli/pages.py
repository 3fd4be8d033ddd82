"""Help pages, written from the schemas: every key with its kind, default and meaning, and the groups of conf/."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

from hydra import compose, initialize_config_dir
from omegaconf import MISSING, OmegaConf

from lofa.cli.options import Option, list_options
from lofa.resources import conf_dir

if TYPE_CHECKING:
    from lofa.cli.command import Command

__all__ = ["command_page", "list_groups"]

_FLAGS = """\
Flags:
  --help            this page
  --cfg job         print the configuration that would run, and stop
  -m, --multirun    run once for each combination of comma-separated values, each in a folder of its own;
                    text keys are never split: sweep those with +hydra.sweeper.params.<key>="a,b"
  --hydra-help      what else Hydra offers (launchers, info, shell completion)

Keys of kind "text" take everything after "=" as it stands, whatever characters it holds.
"""


def list_groups(config_name: str) -> Iterator[tuple[str, list[str]]]:
    """(group, its options) of each group that the defaults list of a configuration chooses from, parents first."""
    for entry in OmegaConf.load(conf_dir() / f"{config_name}.yaml").get("defaults", []):
        if isinstance(entry, str):
            if (conf_dir() / f"{entry}.yaml").is_file():
                yield from list_groups(entry)
            continue
        group = str(next(iter(entry))).removeprefix("optional ")
        if not group.startswith("override "):
            yield group, sorted(path.stem for path in (conf_dir() / group.partition("@")[0]).glob("*.yaml"))


def command_page(command: "Command", overrides: Sequence[str]) -> str:
    """The help page of a command, with the values that it would use with these overrides."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose(command.name, list(overrides))
    shown = {name: alias for alias, name in command.aliases.items()}
    known = [item for item in list_options(command.schema) if "." not in item.name]
    known += [item for item in list_options(command.schema) if item.name.partition(".")[0] in command.sections]
    width = max(len(item.name) for item in known) + 2
    title = f"{command.program or f'lofa {command.name}'}: {command.summary}"
    lines = [title, "", "Usage:", *(f"  {example}" for example in command.examples), "", "Keys:"]
    for item in known:
        value = OmegaConf.select(config, item.name, default=MISSING)
        lines += _entry(shown.get(item.name, item.name), item, value, width)
    groups = list(list_groups(command.name))
    if groups:
        lines += ["", f"Groups, each a folder of {_shown(conf_dir())} (group=option); --cfg job shows what they set:"]
        lines += [f"  {group:<{width}}{', '.join(found)}" for group, found in groups]
    return "\n".join(lines) + "\n\n" + _FLAGS


def _entry(name: str, item: Option, value: object, width: int) -> list[str]:
    if isinstance(value, str) and value == MISSING:
        default = "required"
    else:
        default = f"= {value}" if value not in (None, "", (), []) else "none"
    body = wrap(f"{item.help.rstrip('.')} [{item.kind}, {default}]", max(60, 118 - width))
    return [f"  {name:<{width}}{body[0]}", *(" " * (width + 2) + line for line in body[1:])]


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
