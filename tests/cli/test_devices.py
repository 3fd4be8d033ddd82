"""`device=` means the same in every command, training too."""

from typing import Any

import pytest
import torch

from lofa.errors import ConfigError
from lofa.workflows import devices as placing
from lofa.workflows import pick_device, place_training


def given_as(device: str, accelerator: str = "auto", devices: Any = 1) -> tuple[str, str, Any]:
    return device, accelerator, tuple(devices) if isinstance(devices, list) else devices


@pytest.mark.parametrize(
    ("given", "accelerator", "devices"),
    [
        (("auto", "auto", 1), "auto", 1),
        (("auto", "gpu", "auto"), "gpu", "auto"),
        (("cpu",), "cpu", 1),
        (("cpu", "cpu", 2), "cpu", 2),
        (("cuda",), "gpu", 1),
        (("cuda", "gpu", "auto"), "gpu", "auto"),
        (("cuda", "cuda", [0, 2]), "gpu", [0, 2]),
        (("cuda:1",), "gpu", [1]),
        (("cuda:1", "gpu", "auto"), "gpu", [1]),
        (("cuda:1", "auto", [1]), "gpu", [1]),
        (("cuda:0",), "gpu", [0]),
    ],
)
def test_training_goes_where_the_device_is(
    given: tuple[Any, ...], accelerator: str, devices: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placing, "pick_device", torch.device)  # as if it were there
    assert place_training(*given_as(*given)) == (accelerator, devices)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("cpu", "gpu"), "device=cpu and trainer.accelerator=gpu contradict"),
        (("cuda", "cpu"), "device=cuda and trainer.accelerator=cpu contradict"),
        (("cuda:1", "gpu", 2), "strategy.devices=2"),
        (("cuda:1", "gpu", [0, 1]), r"strategy.devices=\[0, 1\]"),
        (("cuda:1", "gpu", [0]), r"strategy.devices=\[0\]"),
        (("auto", "auto", "many"), "strategy.devices=many"),
        (("auto", "auto", []), r"strategy.devices=\[\]"),
        (("auto", "auto", None), "strategy.devices=None"),
        (("auto", "auto", 0.5), "strategy.devices=0.5"),
    ],
)
def test_contradictions_are_told(given: tuple[Any, ...], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "pick_device", torch.device)
    with pytest.raises(ConfigError, match=words):
        place_training(*given_as(*given))


@pytest.mark.parametrize("name", ["meta", "tpu9", "cuda:99", "", "cpu:x", "hpu"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"device={name}: .*give cpu"):
        pick_device(name)
