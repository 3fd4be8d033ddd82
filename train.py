"""Train one stage of the predictor: `python train.py stage=1 data=<set>`, then `stage=2`. `--help` lists every key."""

import sys

from lofa.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
