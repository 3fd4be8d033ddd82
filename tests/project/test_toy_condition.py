"""A further kind of condition is one file (tests/helpers/toy_image.py) and one line of the table."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from lofa.adapters import Adapter
from lofa.backbones import Backbone, load_backbone
from lofa.conditions import CONDITIONS
from lofa.data import LoFADataModule, ZooBatch, prepare, read_samples
from lofa.data.samples import read_encoded, values_of
from lofa.data.world_source import WorldSource
from lofa.errors import LofaError
from lofa.hypernets import SingleStage
from lofa.predict import Predictor, save_predictor
from lofa.workflows import build_encoder
from tests.data.conftest import WORLD, add_zoo
from tests.helpers.toy_image import Image

load = WorldSource.load


def load_with_pictures(source: WorldSource, samples: list) -> list:
    """Clips of the world, each with its first two frames as pictures."""
    for loaded in (found := load(source, samples)):
        object.__setattr__(loaded, "conditions", {**loaded.conditions, "image": loaded.frames[:2]})
    return found


@pytest.fixture
def backbone(tiny_wan_random: Path) -> Backbone:
    loaded = load_backbone(tiny_wan_random)
    loaded.max_prompt_tokens = 200
    return loaded


@pytest.fixture
def pictures(backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set with pictures and a zoo."""
    monkeypatch.setitem(CONDITIONS, "image", Image())
    monkeypatch.setattr(WorldSource, "load", load_with_pictures)
    prepare("world", tmp_path / "set", backbone, WORLD, Console(quiet=True))
    add_zoo(tmp_path / "set", backbone)
    return tmp_path / "set"


@pytest.mark.parametrize("conditions", [{"image": {"width": 64}}, {"text": {}, "image": {"width": 64}}])
def test_it_goes_from_pictures_to_an_adapter(conditions: dict, pictures: Path, backbone: Backbone) -> None:
    data = LoFADataModule(pictures, backbone.layers, backbone, conditions=list(conditions), batch_size=3, drop=0.5)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert isinstance(batch, ZooBatch) and list(batch.inputs) == list(conditions)
    assert batch.inputs["image"].values.shape == (3, 2, 32, 32, 3)
    assert batch.inputs["image"].values.dtype == torch.uint8  # pixels are stored as they are

    torch.manual_seed(0)
    encoder = build_encoder(conditions, backbone, data.example())
    tokens, lengths = encoder(batch.inputs)
    assert tokens.shape[2] == 64 and (lengths >= 1).all()
    layer = backbone.layers[0]
    sizes = {"shapes": [[layer.out_features, layer.in_features]], "num_depths": backbone.num_depths}
    sizes |= {"num_kinds": len(backbone.kinds), "patch_size": 48, "d_model": 16, "n_heads": 2, "n_blocks": 1}
    hypernet = SingleStage.fresh(2, sizes | {"lora_rank": 2, "context_width": encoder.width}, encoder, {})
    for head in hypernet.trained.network.head.B.values():
        torch.nn.init.normal_(head.weight, std=0.1)
    folder = pictures.parent / "predictor"
    save_predictor(folder, backbone, conditions=list(conditions), hypernet=hypernet)

    predictor = Predictor.load(folder, backbone=backbone)
    assert predictor.conditions == tuple(conditions)
    one = next(sample for sample in read_samples(pictures) if sample.split == "test")
    asked = values_of(pictures, [one], backbone, conditions)
    assert asked.keys() == {CONDITIONS[kind].argument for kind in conditions}
    frames = read_encoded(pictures, one, backbone).conditions["image"].numpy()
    given = {**asked, "image": [list(frames)]}
    (found,) = predictor.predict(**given)
    changed = {**given, "image": [[np.zeros_like(frames[0])]]}
    (dark,) = predictor.predict(**changed)
    name = next(iter(found))
    assert isinstance(found, Adapter) and not torch.allclose(found.delta_weight(name), dark.delta_weight(name))
    alone = predictor.predict(image=frames[0])  # a kind that is not given is left out
    assert isinstance(alone, Adapter)
    with pytest.raises(LofaError, match="takes .*image=.*got pose"):
        predictor.predict(pose=np.zeros((3, 5, 2)))


def test_a_prepared_set_says_which_kinds_it_has(pictures: Path) -> None:
    keys = ("condition.image", "condition.pose", "condition.text", "latents")
    assert all(sample.encoded == keys for sample in read_samples(pictures))
