"""Samples on disk: what is written is read, and what is wrong is named."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from lofa.data import Encoded, Sample, encoded_path, read_encoded, read_samples, write_encoded, write_samples
from lofa.errors import DataError
from tests.helpers.stamps import Stamp

SAMPLE = Sample("one", "a figure waves, “twice”", "train", "wave", "adapt", "world", 5, (32, 48), 8.0, 3)


def write(folder: Path, sample: Sample = SAMPLE, **changes: torch.Tensor) -> Sample:
    encoded = Encoded(torch.randn(2, 1, 4, 6), {"text": torch.randn(3, 8), "pose": torch.rand(5, 15, 2)})
    encoded = replace(encoded, **changes)
    return write_encoded(folder, sample, encoded, backbone="tiny", fingerprint="abc", dtype=torch.float32)


def test_samples_round_trip(tmp_path: Path) -> None:
    samples = [SAMPLE, replace(SAMPLE, id="two", split="test", role="score", encoded=("latents",))]
    write_samples(tmp_path, samples)
    assert read_samples(tmp_path) == samples


def test_a_missing_set_names_the_sets_there_are(tmp_path: Path) -> None:
    write_samples(tmp_path / "jhmdb", [SAMPLE])
    with pytest.raises(DataError, match="no prepared data set at .*wrld.*jhmdb.*lofa prepare.*data=.*wrld"):
        read_samples(tmp_path / "wrld")
    (tmp_path / "wrld" / "encoded").mkdir(parents=True)
    with pytest.raises(DataError, match="did not finish"):
        read_samples(tmp_path / "wrld")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"caption": " "}, "no caption"),
        ({"caption": None}, "no caption"),
        ({"split": "dev"}, "split 'dev'"),
        ({"role": "see"}, "role 'see'"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, change: dict[str, object], words: str) -> None:
    rows = [asdict(SAMPLE), {**asdict(SAMPLE), "id": "two", **change}]
    (tmp_path / "samples.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    with pytest.raises(DataError, match=f"samples.jsonl, entry 2.*{words}"):
        read_samples(tmp_path)


def test_a_line_without_caption_or_that_is_no_object(tmp_path: Path) -> None:
    path, row = tmp_path / "samples.jsonl", asdict(SAMPLE)
    for text, words in (
        (json.dumps({key: value for key, value in row.items() if key != "caption"}), "no caption; run"),
        ("[]", "no id, caption"),
    ):
        path.write_text(text + "\n")
        with pytest.raises(DataError, match=words) as caught:
            read_samples(tmp_path)
        assert str(path) in str(caught.value)


def test_encoded_round_trip_and_reading_of_parts(tmp_path: Path) -> None:
    torch.manual_seed(0)
    latents, text = torch.randn(2, 1, 4, 6), torch.randn(3, 8)
    pose = torch.rand(5, 15, 2)
    sample = write(tmp_path, latents=latents, conditions={"pose": pose, "text": text})
    assert sample.encoded == ("condition.pose", "condition.text", "latents")
    whole = read_encoded(tmp_path, sample, Stamp("abc"))
    assert whole.latents is not None and torch.equal(whole.latents, latents)
    assert torch.equal(whole.conditions["text"], text) and torch.equal(whole.conditions["pose"], pose)
    part = read_encoded(tmp_path, sample, Stamp("abc"), ["condition.text"])
    assert part.latents is None and list(part.conditions) == ["text"] and torch.equal(part.conditions["text"], text)


def test_bad_encoded_files_are_named(tmp_path: Path) -> None:
    sample = write(tmp_path)
    path = encoded_path(tmp_path, sample.id)
    with pytest.raises(DataError, match=f"{path}.*made for backbone 'tiny'.*abc.*xyz"):
        read_encoded(tmp_path, sample, Stamp("xyz"))
    with pytest.raises(DataError, match=r"no tensor condition\.image"):
        read_encoded(tmp_path, sample, Stamp("abc"), ["condition.image"])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=f"{path}.*not a whole safetensors file"):
        read_encoded(tmp_path, sample, Stamp("abc"))
    path.unlink()
    with pytest.raises(DataError, match=f"{path}: no such file"):
        read_encoded(tmp_path, sample, Stamp("abc"))


def test_values_that_are_not_finite_are_never_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="latents holds NaN or infinity"):
        write(tmp_path, latents=torch.full((2, 1, 4, 6), float("nan")))
    assert not encoded_path(tmp_path, SAMPLE.id).exists()
