"""Help pages: every key of a command with its kind, default and meaning, and the groups of conf/.

What an option means stands in its class; what an argument of a class named by `_target_` means stands behind it in the
file of conf/ that sets it, as a comment.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import yaml
from hydra import compose, initialize_config_dir
from omegaconf import MISSING, DictConfig, OmegaConf

from lofa.cli.options import Option, list_options
from lofa.resources import conf_dir

if TYPE_CHECKING:
    from lofa.cli.command import Command

__all__ = ["command_page", "read_header"]

_FLAGS = """\
Flags:
  --help            this page, with the values that the other arguments would give
  --cfg job         print the configuration that would run, and stop
  -m, --multirun    run once for each combination of comma-separated values, each in a folder of its own;
                    text keys are never split: sweep those with +hydra.sweeper.params.<key>="a,b"
  --hydra-help      what else Hydra offers (launchers, info, shell completion)

Keys of kind "text" take everything after "=" as it stands, whatever characters it holds. Beside a key that ends in
_target_ stand the arguments of the class that it names: +<key>=<value> adds another one, ~<key> takes one away.
"""


def read_header(name: str) -> tuple[str, list[str]]:
    """What a command is for, and whole command lines, as conf/<name>.yaml begins."""
    lines = (conf_dir() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    summary, *examples = [line.removeprefix("# ") for line in takewhile(lambda line: line.startswith("#"), lines)]
    return summary, [example.strip() for example in examples]


def command_page(command: "Command", overrides: Sequence[str]) -> str:
    """The help page of a command, with the values that it would use with these overrides."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose(command.name, list(overrides), return_hydra_config=True)
    choices = {str(group): str(option) for group, option in config.hydra.runtime.choices.items()}
    options = list(list_options(command.schema))
    known = [item for item in options if "." not in item.name and item.help]
    for item in options:
        if item.name.partition(".")[0] in command.sections.split() and ("." in item.name or not item.help):
            known += [item] if item.help else _arguments(config, item.name, choices)
    shown = {name: alias for alias, name in command.aliases.items()}
    width = max(len(item.name) for item in known) + 2
    summary, examples = read_header(command.name)
    title = f"{command.program or f'lofa {command.name}'}: {summary}"
    lines = [title, "", "Usage:", *(f"  {example}" for example in examples), "", "Keys:"]
    for item in known:
        value = OmegaConf.select(config, item.name, default=MISSING)
        lines += _entry(shown.get(item.name, item.name), item, value, width)
    groups = [group for group in reversed(choices) if not group.startswith("hydra/")]
    if groups:
        lines += ["", f"Groups, each a folder of {_shown(conf_dir())} (group=option); --cfg job shows what they set:"]
    for group in groups:
        found = sorted(path.stem for path in (conf_dir() / group.partition("@")[0]).glob("*.yaml"))
        lines.append(f"  {group:<{width}}{', '.join(found)}")
    return "\n".join(lines) + "\n\n" + _FLAGS


def _arguments(config: DictConfig, key: str, choices: dict[str, str]) -> Iterator[Option]:
    """An option for each argument, and for the class, of the object that `key` configures."""
    node = OmegaConf.select(config, key)
    helps: dict[str, str] = {}
    for group, option in choices.items():
        name, _, package = group.partition("@")
        if key == (package or name) or key.startswith(f"{package or name}."):
            helps = {f"{package or name}.{inner}": words for inner, words in _comments(name, option).items()}
    for name in node or ():
        place = f"{key}.{name}"
        if isinstance(node[name], DictConfig):
            yield from _arguments(config, place, choices)
        else:
            about = "the class that is built" if name == "_target_" else helps.get(place, "")
            kinds = {"ListConfig": "list", "NoneType": "any"}
            kind = type(node[name]).__name__
            yield Option(place, kinds.get(kind, kind), about, verbatim=False)


def _comments(group: str, option: str) -> dict[str, str]:
    """Dotted key -> the comment behind it, of a file in conf/ and of those in its folder that it builds on."""
    file = conf_dir() / group / f"{option}.yaml"
    if not file.is_file():
        return {}
    text = file.read_text(encoding="utf-8")
    found: dict[str, str] = {}
    for base in (yaml.safe_load(text) or {}).get("defaults", []):
        found |= _comments(group, str(base))

    def read(node: Any, prefix: str) -> None:
        for key, value in node.value:
            if isinstance(value, yaml.MappingNode):
                read(value, f"{prefix}{key.value}.")
            else:
                line = text.splitlines()[value.end_mark.line]
                comment = line[value.end_mark.column :].partition("#")[2].strip()
                follows = re.fullmatch(r"\$\{([\w.]+)\}", str(value.value))
                if comment or follows:
                    found[f"{prefix}{key.value}"] = comment or f"follows {follows[1]}"  # type: ignore[index]

    read(yaml.compose(text), "")
    return found


def _entry(name: str, item: Option, value: object, width: int) -> list[str]:
    if isinstance(value, str) and value == MISSING:
        default = "required"
    else:
        default = f"= {value}" if value not in (None, "", (), []) else "none"
    body = wrap(f"{item.help.rstrip('.')} [{item.kind}, {default}]".lstrip(), max(60, 118 - width))
    return [f"  {name:<{width}}{body[0]}", *(" " * (width + 2) + line for line in body[1:])]


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
