"""The command line: `lofa <command> key=value ...`, and `train.py`, `eval.py` for two of the commands."""

import sys
from collections.abc import Sequence

from lofa.cli.command import run
from lofa.cli.commands import COMMANDS
from lofa.cli.pages import read_header
from lofa.errors import nearest

__all__ = ["COMMANDS", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `lofa`. Returns the exit code: 0, 2 after a user's mistake, 130 after a signal."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("--help", "-h"):
        width = max(map(len, COMMANDS)) + 2
        print(
            "lofa: predict LoRA weights for frozen video generators\n\nUsage: lofa <command> key=value ...\n\nCommands:"
        )
        print("\n".join(f"  {name:<{width}}{read_header(name)[0]}" for name in COMMANDS))
        print("\n`lofa <command> --help` lists the keys of a command.")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"lofa: no command {name!r}; {nearest(name, COMMANDS)}", file=sys.stderr)
        return 2
    return run(COMMANDS[name], rest)
