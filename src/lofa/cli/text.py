"""Text and path values reach the program verbatim, whatever characters they hold.

Two grammars stand between the shell and a command: Hydra's for `key=value` and OmegaConf's for the value, in which
commas, quotes, parentheses, "!", "${" and "???" all mean something. A value of a text key is therefore written as a
quoted string of the first grammar that holds an escaped string of the second.
"""

import re
from collections.abc import Collection, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import OmegaConf

__all__ = ["literal", "plain_arguments", "quote_text"]

_ARGUMENT = re.compile(r"(?P<key>\+{0,2}(?P<name>[\w.@/]+))=(?P<value>.*)", re.DOTALL)
_MISSING = "???"  # means "missing" to OmegaConf and has no escape: a resolver gives it back
_MISSING_LITERAL = "${lofa.missing_literal:}"

OmegaConf.register_new_resolver("lofa.missing_literal", lambda: _MISSING, replace=True)


def literal(text: str) -> str:
    """`text` as a configuration value that reads back as exactly `text`."""
    if text == _MISSING:
        return _MISSING_LITERAL
    return re.sub(r"(\\*)\$\{", lambda match: 2 * match[1] + r"\${", text)


def quote_text(arguments: Sequence[str], keys: Collection[str]) -> list[str]:
    """The arguments with the value of each `key=value`, where key is one of `keys`, quoted for Hydra."""
    return [_quote(argument, keys) for argument in arguments]


def _holds_text(name: str, keys: Collection[str]) -> bool:
    """Whether a key is one of `keys`, or an entry of a mapping that is."""
    return name in keys or name.rpartition(".")[0] in keys


def _quote(argument: str, keys: Collection[str]) -> str:
    match = _ARGUMENT.fullmatch(argument)
    if match is None or not _holds_text(match["name"], keys):
        return argument
    return f"{match['key']}={QuotedString(literal(match['value']), Quote.single).with_quotes()}"


def plain_arguments(overrides: Sequence[str], keys: Collection[str]) -> list[str]:
    """The inverse of `quote_text`: what a user would have typed for these overrides."""
    parser = OverridesParser.create()
    plain = []
    for override in overrides:
        match = _ARGUMENT.fullmatch(override)
        if match is not None and _holds_text(match["name"], keys):
            value = OmegaConf.create({"value": parser.parse_override(override).value()}).value
            override = f"{match['key']}={value}"
        plain.append(override)
    return plain
