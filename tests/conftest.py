"""Fixtures shared by all tests."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lofa.resources import data_dir
from tests.helpers.tiny_wan import make_tiny_wan

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_wan_random(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a WanPipeline of random weights, the same at every run."""
    return make_tiny_wan(tmp_path_factory.mktemp("models") / "tiny-wan-random")


@pytest.fixture(scope="session")
def tiny_wan() -> Path:
    """Folder of the shipped model."""
    return data_dir() / "tiny-wan"


@pytest.fixture
def full_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk of 256 KiB of its own (skipped where none may be mounted)."""
    folder = tmp_path_factory.mktemp("disk")
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk can be mounted here: {error}")
    yield folder
    subprocess.run(["umount", folder], check=True)
