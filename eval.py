"""Compare methods on held-out prompts: `python eval.py methods=[base,lora,lofa]`. `--help` lists every key."""

import sys

from lofa.cli import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))
