"""Run directories: one that explains itself, and finding the one that is meant.

runs/<name>/config.yaml        resolved configuration
            environment.json   code revision, versions, machine, command line
            tensorboard/  checkpoints/
            predictor/         weights and description
            run.json           what was trained and how it ended; written last, so its presence means "finished"
"""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml

from lofa.backbones import Fingerprinted
from lofa.errors import DataError
from lofa.files import atomic_write, read_json, remove_temporaries, write_json
from lofa.processes import is_first_process
from lofa.workflows.old_keys import renew

__all__ = [
    "CHECKPOINTS",
    "CONFIG",
    "SHARED_RUN",
    "find_run",
    "finish_run",
    "read_settings",
    "reserve_run",
    "start_run",
]

CONFIG, ENVIRONMENT, SUMMARY = "config.yaml", "environment.json", "run.json"
CHECKPOINTS = "checkpoints"
_RESULTS = (SUMMARY, "metrics.json", f"{CHECKPOINTS}/*")  # a run that has one of these is never touched
SHARED_RUN = "LOFA_RUN_DIR"  # the first process tells those it starts
_PACKAGES = ("torch", "lightning", "diffusers", "transformers", "hydra-core", "safetensors", "lofa")


@contextmanager
def reserve_run(run: Path) -> Iterator[Path]:
    """The directory of a new run, for the length of the block; nothing is written yet.

    Where the block raises (Ctrl-C too) before there is a checkpoint or a result, the name is free again: what
    `start_run` wrote is taken back, logs stay.
    """
    try:
        yield run
    except BaseException:
        if is_first_process() and not any(next(run.glob(result), None) for result in _RESULTS):
            for file in (CONFIG, ENVIRONMENT):
                (run / file).unlink(missing_ok=True)
            for folder in (run / CHECKPOINTS, run):
                with suppress(OSError):  # not there, or not empty
                    folder.rmdir()
        raise


def start_run(run: Path, settings: Mapping[str, Any]) -> None:
    """Writes what the run is started with (plain values); processes that this one starts will find the directory."""
    os.environ[SHARED_RUN] = str(run)
    if not is_first_process():
        return
    if run.is_dir():
        remove_temporaries(run, lambda: True)
    with atomic_write(run / CONFIG) as temporary:
        text = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)
        temporary.write_text(text, encoding="utf-8")
    packages = {name: _version(name) for name in _PACKAGES}
    write_json(
        run / ENVIRONMENT,
        {
            "started": f"{datetime.now():%Y-%m-%d %H:%M:%S}",
            "command": sys.argv,
            "git_revision": _revision(),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
            "packages": packages,
        },
    )


def finish_run(run: Path, summary: Mapping[str, object]) -> None:
    """Marks a run as finished, with what later commands look for."""
    if is_first_process():
        write_json(run / SUMMARY, {"finished": f"{datetime.now():%Y-%m-%d %H:%M:%S}", **summary})


def find_run(runs: str | Path, wanted: Mapping[str, object], backbone: Fingerprinted | None = None) -> Path:
    """The finished run of `runs` (searched through) that was finished last among those whose summary holds `wanted`,
    and of those for `backbone`.

    Raises:
        DataError: there is none.
    """
    found = []
    for file in Path(runs).rglob(SUMMARY):
        summary = read_json(file)
        fits = all(summary.get(key) == value for key, value in wanted.items())
        if fits and (backbone is None or backbone.accepts(summary.get("backbone_fingerprint"))):
            found.append((file.stat().st_mtime_ns, file.parent))
    if not found:
        stamp = {} if backbone is None else {"backbone_fingerprint": backbone.fingerprint}
        described = ", ".join(f"{key}={value}" for key, value in {**wanted, **stamp}.items())
        raise DataError(f"no finished run in {runs} with {described}")
    return max(found)[1]


def read_settings(run: str | Path) -> dict[str, Any]:
    """What a run was started with, as `start_run` wrote it, in the keys of today.

    Raises:
        DataError: no run there; the message lists the runs beside it.
    """
    run = Path(run)
    if not (run / CONFIG).is_file():
        beside = sorted(str(file.parent) for file in run.parent.glob(f"*/{CONFIG}")) if run.parent.is_dir() else []
        raise DataError(f"no run in {run}: {CONFIG} is missing. Runs beside it: {', '.join(beside) or 'none'}")
    try:
        read = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{run / CONFIG}: damaged ({str(error).splitlines()[0]})") from None
    if not isinstance(read, dict):
        raise DataError(f"{run / CONFIG}: damaged: it holds no keys")
    return renew(read)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _revision() -> str | None:
    """Commit of the code, with "+" after it where files differ from it; None outside a git checkout."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty=+",
        "--exclude=*",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
