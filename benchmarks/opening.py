"""Memory and time of opening a backbone for what each command uses of it.

    python benchmarks/opening.py [backbone=tiny-wan] [repeats=5]

One process a case, so that nothing that another case imported or loaded counts; the median of `repeats` processes:
seconds of `load_backbone` and of the use, without the start of Python, and the process' peak of resident memory.
"""

import json
import statistics
import subprocess
import sys

CASES = {
    "stage 1: weights": "[backbone.weight(layer.name) for layer in backbone.layers]; backbone.fingerprint",
    "zoo, stage 2: denoiser": "backbone.denoiser; backbone.fingerprint",
    "prepare: autoencoder, text encoder": "backbone.autoencoder, backbone.text_encoder, backbone.tokenizer",
    "all parts": "backbone.pipeline",
}
_PROGRAM = """
import json, resource, sys, time
begun = time.perf_counter()
import lofa
backbone = lofa.load_backbone({name!r})
opened = time.perf_counter()
{use}
used = time.perf_counter()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([opened - begun, used - opened, peak]))
"""


def measure(name: str, use: str, repeats: int) -> tuple[float, float, float]:
    """Seconds of opening, seconds of use, peak MB."""
    program = [sys.executable, "-c", _PROGRAM.format(name=name, use=use)]
    rows = [json.loads(subprocess.run(program, check=True, capture_output=True).stdout) for _ in range(repeats)]
    opened, used, peak = (statistics.median(column) for column in zip(*rows, strict=True))
    return opened, used, peak


def main() -> None:
    """Prints a line a case."""
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    name, repeats = given.get("backbone", "tiny-wan"), int(given.get("repeats", "5"))
    for case, use in CASES.items():
        opened, used, peak = measure(name, use, repeats)
        print(f"{case:36s} open {opened:5.2f} s   use {used:5.2f} s   peak {peak:6.0f} MB")


if __name__ == "__main__":
    main()
