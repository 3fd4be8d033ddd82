"""The wheel carries configuration and models, and works from an empty folder."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import torch

from lofa.adapters import Adapter
from lofa.backbones import Backbone, load_backbone
from lofa.conditions import TextEncoder
from lofa.hypernets import AdapterConfig, AdapterNet, Part, ResponseConfig, ResponseNet, TwoStage
from lofa.predict import save_predictor

ROOT = Path(__file__).parents[2]
SHARE = "lofa/_share"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    out = tmp_path_factory.mktemp("dist")
    _run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)], out)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh environment that has the wheel, and sees the libraries installed here."""
    place = tmp_path_factory.mktemp("fresh") / "venv"
    _run([sys.executable, "-m", "venv", str(place)], place.parent)
    scheme = {"base": str(place), "platbase": str(place), "installed_base": str(place)}
    library = Path(sysconfig.get_path("purelib", "venv", scheme))
    # a path in a .pth file is searched, but the .pth files in it are not: an editable lofa there stays unseen
    (library / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    folder = Path(sysconfig.get_path("scripts", "venv", scheme))
    install = [str(folder / "python"), "-m", "pip", "install", "--no-deps", "--no-index", "--force-reinstall"]
    _run([*install, str(wheel)], place.parent)
    return folder


def _run(command: list[str], folder: Path) -> str:
    """Standard output of a command run in `folder`, without this checkout on its path and without the hub."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment["HF_HUB_OFFLINE"] = "1"
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _predictor(folder: Path, backbone: Backbone) -> None:
    """Small random networks as a predictor."""
    torch.manual_seed(0)
    layer = backbone.layers[0]
    sizes = {
        "shapes": [[layer.out_features, layer.in_features]],
        "num_depths": backbone.num_depths,
        "num_kinds": len(backbone.kinds),
        "context_width": backbone.condition_width,
        "patch_size": layer.in_features // 2,
        "d_model": 16,
        "n_heads": 2,
        "n_blocks": 1,
        "lora_rank": 2,
    }
    encoder = TextEncoder(width=backbone.condition_width)
    adapter = AdapterNet(AdapterConfig(**sizes, response_width=16, read_after=(0,)))
    torch.nn.init.normal_(adapter.head.B[str(layer.out_features)].weight, std=0.1)
    save_predictor(
        folder,
        backbone,
        conditions=["text"],
        hypernet=TwoStage(response=Part(ResponseNet(ResponseConfig(**sizes)), encoder), adapter=Part(adapter, encoder)),
    )


def test_it_carries_configuration_and_models(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for folder in ("conf", "data/tiny-wan", "data/tiny-metrics"):
        there = {
            f"{SHARE}/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / folder).rglob("*") if path.is_file()
        }
        assert there and there <= names
    assert "lofa/py.typed" in names and "lofa/evaluation/page.html" in names
    data = {name.split("/")[3] for name in names if name.startswith(f"{SHARE}/data/")}
    assert data == {"tiny-wan", "tiny-metrics"}  # no prepared sets
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.startswith("lofa")} == set()


def test_an_installed_predict_works_from_an_empty_folder(programs: Path, tmp_path: Path) -> None:
    backbone = load_backbone("tiny-wan")
    _predictor(tmp_path / "predictor", backbone)
    empty = tmp_path / "empty"
    empty.mkdir()
    home = _run([str(programs / "python"), "-c", "import lofa; print(lofa.__file__)"], empty).strip()
    assert Path(home).is_relative_to(programs.parent), "the fresh environment must not see this checkout"

    prompt = 'a figure waves ("hello", it says), 100 % = all!'
    command = [str(programs / "lofa"), "predict", f"predictor={tmp_path / 'predictor'}", f"prompt={prompt}"]
    _run([*command, "out=x.safetensors", "device=cpu"], empty)
    assert [path.name for path in empty.iterdir()] == ["x.safetensors"]
    adapter = Adapter.load(empty / "x.safetensors")
    assert set(adapter) == {layer.name for layer in backbone.layers}
    assert adapter.metadata["prompt"] == prompt
    assert all(adapter.delta_weight(name).abs().sum() > 0 for name in adapter)
    backbone.pipeline.load_lora_weights(empty / "x.safetensors")
