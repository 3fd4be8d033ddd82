from pathlib import Path

import pytest

from lofa.backbones import Backbone, load_backbone


@pytest.fixture(scope="session")
def backbone(tiny_wan_random: Path) -> Backbone:
    return load_backbone(tiny_wan_random)
