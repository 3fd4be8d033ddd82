"""A zoo of the published code becomes a set: LoRAs, latents and prompt tokens as they were; what is wrong is named."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lofa.adapters import Adapter, LowRank
from lofa.backbones import Backbone
from lofa.data import LoFADataModule, PrepareOptions, ZooStore, prepare, read_encoded, read_samples
from lofa.errors import DataError
from tests.data.conftest import QUIET, random_adapter

OPTIONS = PrepareOptions(dtype="float32", val_fraction=0.0, test_fraction=0.0)
REAL = 5


def write_zoo(folder: Path, backbone: Backbone, count: int = 3) -> list[dict[str, str]]:
    """As the published code lays it out: prompts of 5 tokens in 16, zero behind."""
    (folder / "loras").mkdir(parents=True)
    (folder / "samples").mkdir()
    entries = []
    for i in range(count):
        prompt = torch.zeros(16, backbone.condition_width)
        prompt[:REAL] = torch.randn(REAL, backbone.condition_width, generator=torch.Generator().manual_seed(i))
        latents = torch.full((backbone.latent_channels, 2, 4, 3), float(i))
        torch.save({"prompt_emb": prompt, "latents": latents}, folder / f"samples/{i}.pth")
        random_adapter(backbone, i).save(folder / f"loras/wave_left-{i}.pth", format="reference")
        entries.append({"file_name": f"loras/wave_left-{i}.pth", "input_emb": f"samples/{i}.pth"})
    (folder / "metadata.json").write_text(json.dumps(entries))
    return entries


def test_everything_arrives_as_it_was_and_trains(tmp_path: Path, backbone: Backbone) -> None:
    write_zoo(tmp_path / "theirs", backbone)
    set_dir = tmp_path / "set"
    report = prepare(f"reference:{tmp_path / 'theirs'}", set_dir, backbone, OPTIONS, QUIET)
    samples = read_samples(set_dir)
    assert report.encoded == 3 and not report.skipped
    assert [sample.caption for sample in samples] == [f"wave left {i}" for i in range(3)]
    assert {(sample.frames, sample.size) for sample in samples} == {(5, (32, 24))}
    names = [layer.name for layer in backbone.layers]
    for i, sample in enumerate(samples):
        encoded = read_encoded(set_dir, sample, backbone)
        theirs = torch.load(tmp_path / f"theirs/samples/{i}.pth", weights_only=True)
        assert encoded.latents is not None and torch.equal(encoded.latents, theirs["latents"])
        assert torch.equal(encoded.conditions["text"], theirs["prompt_emb"][:REAL])
        expected, found = random_adapter(backbone, i), ZooStore(set_dir).read(sample.id, names, backbone)
        for name in names:
            torch.testing.assert_close(found[name].delta_weight(), expected.delta_weight(name))
    module = LoFADataModule(set_dir, backbone.layers, backbone, stage=2, batch_size=3)
    module.setup()
    assert module.batches_per_epoch == 1
    batch = next(iter(module.train_dataloader()))
    assert batch.stacks[0].A.shape[:2] == (3, len(names)) and batch.inputs["text"].lengths.tolist() == [REAL] * 3


def test_a_second_run_does_nothing_and_a_changed_file_is_read_again(tmp_path: Path, backbone: Backbone) -> None:
    write_zoo(tmp_path / "theirs", backbone)
    source = f"reference:{tmp_path / 'theirs'}"
    prepare(source, tmp_path / "set", backbone, OPTIONS, QUIET)
    assert prepare(source, tmp_path / "set", backbone, OPTIONS, QUIET).reused == 3
    random_adapter(backbone, 9).save(tmp_path / "theirs/loras/wave_left-1.pth", format="reference", overwrite=True)
    assert prepare(source, tmp_path / "set", backbone, OPTIONS, QUIET).encoded == 1


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("this must not run",))


def test_what_is_wrong_with_an_entry_is_named_and_the_rest_goes_on(
    tmp_path: Path, backbone: Backbone, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "theirs"
    entries: list[Any] = list(write_zoo(folder, backbone, 8))
    (folder / "samples/1.pth").unlink()
    torch.save({"prompt_emb": Code()}, folder / "samples/2.pth")
    torch.save({"prompt_emb": torch.zeros(16, 3), "latents": torch.zeros(2, 1, 2, 2)}, folder / "samples/3.pth")
    odd = Adapter({backbone.layers[0].name: LowRank(torch.ones(2, 7), torch.ones(5, 2), torch.ones(()))})
    odd.save(folder / "loras/wave_left-4.pth", format="reference", overwrite=True)
    (folder / "loras/wave_left-5.pth").write_bytes(b"PK\x03\x04")
    entries[6] = {"file_name": "loras/wave_left-6.pth"}
    entries[7] = entries[0]
    (folder / "metadata.json").write_text(json.dumps(entries))
    report = prepare(f"reference:{folder}", tmp_path / "set", backbone, OPTIONS, QUIET)
    assert len(report.samples) == 1
    reasons = "\n".join(f"{skip.source}: {skip.reason}" for skip in report.skipped)
    for part in (
        "1.pth: no such file",
        "2.pth: not a readable file of tensors alone",
        "latent channels and text tokens 3 wide",
        "made for another backbone",
        "wave_left-5.pth",
        "entry 7: needs file_name and input_emb",
        "a second time",
    ):
        assert part in reasons, (part, reasons)
    assert "this must not run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no metadata.json in it"), ("{}", "not a list"), ("[]", "no sample remains")]
)
def test_a_folder_that_is_no_zoo_is_refused(
    tmp_path: Path, backbone: Backbone, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "metadata.json").write_text(content)
    with pytest.raises(DataError, match=message):
        prepare(f"reference:{tmp_path}", tmp_path / "set", backbone, OPTIONS, QUIET)
