"""A set written for the published code, and read back, is the set."""

from pathlib import Path

import pytest
import torch

from lofa.backbones import Backbone
from lofa.data import PrepareOptions, ZooStore, export_reference, prepare, read_encoded, read_samples
from lofa.errors import DataError
from lofa.interop.zoo import read_index, read_sample, read_stage1, stage1_path
from tests.data.conftest import QUIET
from tests.data.test_reference_source import OPTIONS, write_zoo


@pytest.fixture
def made(tmp_path: Path, backbone: Backbone) -> Path:
    """A set of three samples with LoRAs."""
    write_zoo(tmp_path / "first", backbone)
    prepare(f"reference:{tmp_path / 'first'}", tmp_path / "set", backbone, OPTIONS, QUIET)
    return tmp_path / "set"


def test_a_round_trip_changes_nothing(tmp_path: Path, made: Path, backbone: Backbone) -> None:
    assert len(export_reference(made, tmp_path / "out")) == 3
    # other options would draw other splits: the written ones count
    drawn = PrepareOptions(dtype="float32", val_fraction=0.0, test_fraction=0.99)
    prepare(f"reference:{tmp_path / 'out'}", tmp_path / "again", backbone, drawn, QUIET)
    before, after = read_samples(made), read_samples(tmp_path / "again")
    names = [layer.name for layer in backbone.layers]
    for old, new in zip(before, after, strict=True):
        assert (old.caption, old.group, old.split, old.frames, old.size) == (
            (new.caption, new.group, new.split, new.frames, new.size)
        )
        first = read_encoded(made, old, backbone)
        second = read_encoded(tmp_path / "again", new, backbone)
        assert first.latents is not None and second.latents is not None
        assert torch.equal(first.latents, second.latents) and torch.equal(
            first.conditions["text"], second.conditions["text"]
        )
        loras = [
            ZooStore(folder).read(sample.id, names, backbone)
            for folder, sample in ((made, old), (tmp_path / "again", new))
        ]
        assert all(torch.equal(loras[0][name].delta_weight(), loras[1][name].delta_weight()) for name in names)


def test_files_are_as_the_published_code_reads_them(tmp_path: Path, made: Path, backbone: Backbone) -> None:
    tokens = {layer.name: torch.randn(5, 6) for layer in backbone.layers}
    export_reference(made, tmp_path / "out", lambda sample: tokens)
    for entry in read_index(tmp_path / "out"):
        prompt, latents = read_sample(tmp_path / "out" / entry["input_emb"])
        assert prompt.shape == (512, backbone.condition_width) and latents.ndim == 4
        file = stage1_path(tmp_path / "out", entry["input_emb"])
        hidden = torch.load(file, weights_only=True)["hidden_states"]
        assert "blocks.0.self_attn.q" in hidden
        back = read_stage1(file)
        assert back.keys() == tokens.keys() and all(torch.equal(back[name], tokens[name]) for name in tokens)
        lora = torch.load(tmp_path / "out" / entry["file_name"], weights_only=True)
        assert "blocks.0.self_attn.q.lora_A.default.weight" in lora


def test_a_set_without_zoo_is_refused(tmp_path: Path, made: Path) -> None:
    for file in (made / "zoo").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="no LoRA in its zoo"):
        export_reference(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"hidden_states": {}}, "holds no hidden_states by layer"),
        ({"hidden_states": {"lm_head": torch.ones(2, 3)}}, "no .T, d. tensor of a layer of Wan"),
        ({"hidden_states": {"blocks.0.self_attn.q": torch.ones(3)}}, "no .T, d. tensor"),
    ],
)
def test_tokens_that_are_none_are_named(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "x.tensors.pth")
    with pytest.raises(DataError, match=message):
        read_stage1(tmp_path / "x.tensors.pth")
