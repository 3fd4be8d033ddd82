"""The public names of the package."""

import subprocess
import sys

import pytest

import lofa


@pytest.mark.parametrize("name", lofa.__all__)
def test_public_names_are_there(name: str) -> None:
    assert getattr(lofa, name) is not None
    assert name in dir(lofa)


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lofa.nothing


def test_importing_is_quick() -> None:
    """No library is loaded before a name is used."""
    heavy = "{'torch', 'diffusers', 'transformers', 'lightning', 'peft', 'hydra'}"
    code = f"import sys, lofa; sys.exit(len({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0
