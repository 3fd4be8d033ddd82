"""benchmarks/lora_settings.py: settings from the command line become checked options."""

import argparse

import pytest

from benchmarks.lora_settings import GRID, parse


@pytest.mark.parametrize("setting", GRID)
def test_the_grid_is_made_of_valid_settings(setting: str) -> None:
    options = parse(setting)
    for pair in setting.split(","):
        key, value = pair.split("=")
        assert getattr(options, key) == float(value)


@pytest.mark.parametrize("setting", ["lr", "lr=much", "schedule=constant", "rang=4", "rank=0", "steps=1.5"])
def test_a_wrong_setting_is_named(setting: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=setting):
        parse(setting)
