"""Rooms are imported when their names are used, and cost nothing before."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

import lofa
from lofa.options import Options

ROOMS = [module.name for module in pkgutil.iter_modules(lofa.__path__) if module.ispkg]
HEAVY = ("torch", "lightning", "diffusers", "transformers", "numpy")


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_of_a_room_is_there(room: str) -> None:
    package = importlib.import_module(f"lofa.{room}")
    for name in package.__all__:
        assert getattr(package, name) is not None and name in dir(package)
    with pytest.raises(AttributeError):
        _ = package.nothing


@pytest.mark.parametrize("room", ROOMS)
def test_a_lazy_name_is_no_module(room: str) -> None:
    """Importing the module would put it in the name's place."""
    package = importlib.import_module(f"lofa.{room}")
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    assert not hasattr(package, "lazy") or not modules & set(package.__all__)


@pytest.mark.parametrize(
    "code",
    [
        "from lofa.cli import main; main(['train', '--help'])",
        "from lofa.cli import main; main(['--help'])",
        "from lofa.cli import main; main(['zoo', 'zoo.stepz=3'])",
        "from lofa.cli import main; main(['generate', 'prompt=x', 'steps=many'])",
        "from lofa.cli import main; main(['train', 'backbone=nothing'])",
        "import os; os.environ['COMP_LINE'] = 'train.py back'; from lofa.cli import main; "
        "main(['train', '-sc', 'query=bash'])",
        "from lofa.zoo import ZooOptions; from lofa.data import PrepareOptions; from lofa.evaluation import Protocol; "
        "from lofa.backbones import BackboneConfig; from lofa.pretrain import Recipe",
    ],
)
def test_help_completion_and_mistakes_import_no_pytorch(code: str) -> None:
    check = f"{code}\nimport sys; sys.exit(len({set(HEAVY)} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_every_option_says_what_it_means() -> None:
    from lofa.cli import COMMANDS
    from lofa.cli.options import list_options

    kinds = [command.schema for command in COMMANDS.values()]
    assert all(issubclass(kind, Options) for kind in kinds)
    silent = {item.name for kind in kinds for item in list_options(kind) if not item.help and item.kind != "mapping"}
    assert silent == set()
