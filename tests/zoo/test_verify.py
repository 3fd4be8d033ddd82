"""Every kind of damage is found and named, and nothing else."""

from collections.abc import Callable
from pathlib import Path
from shutil import copyfile, copytree

import pytest
import torch

from lofa.backbones import Backbone, load_backbone
from lofa.data import ZooEntry, ZooStore
from lofa.errors import DataError
from lofa.files import digest, read_metadata, read_tensors, save_tensors
from lofa.zoo import ZooOptions, build_zoo, verify_zoo
from tests.helpers.tiny_wan import make_tiny_wan
from tests.zoo.sets import write_set

OPTIONS = ZooOptions(rank=2, steps=2, batch=4, clips_per_step=1, probe_levels=2)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, backbone: Backbone) -> Path:
    folder = write_set(tmp_path_factory.mktemp("zoo"), backbone)
    assert build_zoo(folder, backbone, OPTIONS, progress=False).trained == 4
    return folder


def found(folder: Path, backbone: Backbone) -> dict[str, list[str]]:
    """File names by check."""
    files: dict[str, list[str]] = {}
    for check, path, _ in verify_zoo(folder, backbone, OPTIONS).problems:
        files.setdefault(check, []).append(path.name)
    return files


def test_a_whole_zoo_has_no_problem(built: Path, backbone: Backbone) -> None:
    audit = verify_zoo(built, backbone, OPTIONS)
    assert audit.problems == [] and audit.quarantined == () and audit.living == ()
    checks = ["index lines", "files listed", "files there", "digests", "backbone", "layers and values", "no two equal"]
    assert audit.looked_at == dict.fromkeys(checks, 4)


def alter(store: ZooStore, name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Changes the tensors of a LoRA and tells the index."""
    path = store.path(name)
    tensors = read_tensors(path)
    change(tensors)
    save_tensors(path, tensors, read_metadata(path))
    tell(store, name)


def tell(store: ZooStore, name: str) -> None:
    """Makes the index say what the file is, in one line."""
    index = store.index("1-of-1")
    rest = [line for line in index.read_text().splitlines() if f'"{name}"' not in line]
    index.write_text("\n".join(rest) + "\n")
    store.note(ZooEntry(name, "ok", 0.2, 0.1, digest=digest(store.path(name))), "1-of-1")


def nan(store: ZooStore) -> None:
    alter(store, "g0-0", lambda tensors: next(iter(tensors.values())).fill_(torch.nan))


def layer(store: ZooStore) -> None:
    def remove(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.startswith("transformer.blocks.0.attn1.to_q.")]:
            del tensors[name]

    alter(store, "g0-0", remove)


def shape(store: ZooStore) -> None:
    name = "transformer.blocks.0.attn1.to_q.lora_A.weight"
    alter(store, "g0-0", lambda tensors: tensors.update({name: tensors[name][:, 1:]}))


def equal(store: ZooStore) -> None:
    copyfile(store.path("g0-0"), store.path("g1-0"))
    tell(store, "g1-0")


def foreign(store: ZooStore) -> None:
    path = store.path("g0-0")
    save_tensors(path, read_tensors(path), {**read_metadata(path), "backbone_fingerprint": "other"})
    tell(store, "g0-0")


def flipped(store: ZooStore) -> None:
    path = store.path("g0-0")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def torn(store: ZooStore) -> None:
    path = store.path("g0-0")
    path.write_bytes(path.read_bytes()[:-9])


def unlisted(store: ZooStore) -> None:
    copyfile(store.path("g0-0"), store.path("more"))


def twice(store: ZooStore) -> None:
    store.note(ZooEntry("g0-0", "ok", digest=digest(store.path("g0-0"))), "2-of-2")
    index = store.index("1-of-1")
    index.write_text(index.read_text().replace(digest(store.path("g0-0")), "0" * 64))


LORA = ["g0-0.safetensors"]


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (nan, {"layers and values": LORA}),
        (layer, {"layers and values": LORA}),
        (shape, {"layers and values": LORA}),
        (equal, {"no two equal": ["g1-0.safetensors"]}),
        (foreign, {"backbone": LORA}),
        (flipped, {"digests": LORA}),
        (torn, {"digests": LORA, "backbone": LORA, "layers and values": LORA}),
        (lambda store: store.path("g0-0").unlink(), {"files there": LORA}),
        (unlisted, {"files listed": ["more.safetensors"]}),
        (twice, {"index lines": ["index-2-of-2.jsonl"]}),
        (
            lambda store: store.note(ZooEntry("who", "quarantined"), "1-of-1"),
            {"index lines": ["index-1-of-1.jsonl"]},
        ),
        (
            lambda store: (store.folder / ".g0-0.safetensors.0123abcd.tmp.safetensors").touch(),
            {"temporaries": [".g0-0.safetensors.0123abcd.tmp.safetensors"]},
        ),
    ],
)
def test_damage_is_found(
    damage: Callable[[ZooStore], object],
    expected: dict[str, list[str]],
    built: Path,
    tmp_path: Path,
    backbone: Backbone,
) -> None:
    folder = copytree(built, tmp_path / "set")
    damage(ZooStore(folder))
    assert found(folder, backbone) == expected


def test_what_is_mended_has_no_problem_any_more(built: Path, tmp_path: Path, backbone: Backbone) -> None:
    folder = copytree(built, tmp_path / "set")
    ZooStore(folder).path("g0-0").unlink()
    build_zoo(folder, backbone, OPTIONS, progress=False)
    assert found(folder, backbone) == {}


def test_another_backbone_is_named_for_every_lora(built: Path, tmp_path: Path) -> None:
    other = load_backbone(make_tiny_wan(tmp_path / "other", seed=1))
    assert len(found(built, other)["backbone"]) == 4


def test_no_zoo_is_no_clean_zoo(tmp_path: Path, backbone: Backbone) -> None:
    with pytest.raises(DataError, match="no LoRAs; train them with: lofa zoo"):
        verify_zoo(write_set(tmp_path, backbone), backbone, OPTIONS)
