"""The command line: `lofa <command> key=value ...`, and `train.py`, `eval.py` for two of the commands."""

import sys
from collections.abc import Sequence
from importlib import import_module

from lofa.cli.command import Command, run
from lofa.cli.problems import nearest

__all__ = ["COMMANDS", "load_command", "main"]

COMMANDS = {
    "demo": "the whole way once: clips to an evaluated predictor",
    "prepare": "decode clips, encode latents and conditions: a data set",
    "zoo": "train many LoRAs at once on a data set",
    "train": "train a stage of the predictor (python train.py)",
    "eval": "compare base, LoRA and LoFA on held-out prompts (python eval.py)",
    "predict": "a prompt or pose sequence -> an adapter file",
    "finetune": "a short training from an adapter, on one class of a set",
    "generate": "a prompt, with or without an adapter -> a clip",
    "convert": "an adapter file -> another format",
    "merge": "an adapter into its backbone -> a diffusers folder",
    "inspect": "what an adapter, sample, data set or run holds",
    "pretrain": "make the shipped tiny models from nothing",
}
_MODULES = {"eval": "evaluate"}  # the others are named as their command


def load_command(name: str) -> Command:
    """The command of a name in `COMMANDS`; its module is imported only now, so that `lofa --help` is quick."""
    command = import_module(f"lofa.cli.{_MODULES.get(name, name)}").COMMAND
    assert isinstance(command, Command)
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `lofa`. Returns the exit code: 0, 2 after a user's mistake, 130 after a signal."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("--help", "-h"):
        width = max(map(len, COMMANDS)) + 2
        print(
            "lofa: predict LoRA weights for frozen video generators\n\nUsage: lofa <command> key=value ...\n\nCommands:"
        )
        print("\n".join(f"  {name:<{width}}{summary}" for name, summary in COMMANDS.items()))
        print("\n`lofa <command> --help` lists the keys of a command.")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"lofa: no command {name!r}; {nearest(name, COMMANDS)}", file=sys.stderr)
        return 2
    try:
        return run(load_command(name), rest)
    except KeyboardInterrupt:  # while modules are imported
        return 130
