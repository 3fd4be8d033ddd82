"""Fixtures shared by all tests."""

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
