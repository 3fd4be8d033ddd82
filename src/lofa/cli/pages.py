"""Help pages, written from the schemas: every key with its kind, default and meaning, and the groups of conf/."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import wrap

from omegaconf import MISSING, OmegaConf

from lofa.cli.options import Option
from lofa.resources import conf_dir

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


def command_page(program: str, name: str, summary: str, examples: Sequence[str], options: Sequence[Option]) -> str:
    """The help page of one command; `options` hold the values that would be used."""
    options = sorted(options, key=lambda item: "." in item.name)
    width = max(len(item.name) for item in options) + 2
    lines = [f"{program}: {summary}", "", "Usage:", *(f"  {example}" for example in examples), "", "Keys:"]
    for item in options:
        lines += _entry(item, width)
    groups = list(list_groups(name))
    if groups:
        lines += ["", f"Groups, each a folder of {_shown(conf_dir())} (group=option); --cfg job shows what they set:"]
        lines += [f"  {group:<{width}}{', '.join(found)}" for group, found in groups]
    return "\n".join(lines) + "\n\n" + _FLAGS


def _entry(item: Option, width: int) -> list[str]:
    if isinstance(item.default, str) and item.default == MISSING:
        default = "required"
    else:
        default = f"= {item.default}" if item.default not in (None, "", (), []) else "none"
    body = wrap(f"{item.help.rstrip('.')} [{item.kind}, {default}]", max(60, 118 - width))
    return [f"  {item.name:<{width}}{body[0]}", *(" " * (width + 2) + line for line in body[1:])]


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
