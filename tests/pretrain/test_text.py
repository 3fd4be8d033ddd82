"""The tokenizer, the contrastive loss, and what the text encoder is shown."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import PreTrainedTokenizerFast

from lofa.pretrain import Schedule
from lofa.pretrain import text as room
from lofa.pretrain.text import LookVectors, new_text_encoder, new_tokenizer
from lofa.worlds import ACTIONS, SPLITS, Appearance, caption, vocabulary


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return new_tokenizer(64)


def _captions() -> list[str]:
    rng = np.random.default_rng(0)
    return [caption(Appearance.random(rng), name, rng) for name in (None, *ACTIONS)]


def test_captions_come_back_from_their_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    for text in _captions():
        ids = tokenizer(text).input_ids
        assert ids[-1] == tokenizer.eos_token_id and tokenizer.unk_token_id not in ids
        assert len(ids) <= tokenizer.model_max_length
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_every_word_of_the_world_is_one_token(tokenizer: PreTrainedTokenizerFast) -> None:
    pieces = [tokenizer.tokenize(word) for word in vocabulary()]
    assert all(len(piece) == 1 for piece in pieces)
    assert len({piece[0] for piece in pieces}) == len(vocabulary())


def test_unknown_words_are_spelled(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.tokenize("a xylograph!") == ["▁a", "▁", *"xylograph", "!"]
    assert tokenizer.unk_token_id in tokenizer("a figure ☃").input_ids


def test_case_is_folded(tokenizer: PreTrainedTokenizerFast) -> None:
    for text in _captions()[:20]:
        assert tokenizer(text.upper()).input_ids == tokenizer(text).input_ids


def test_padding_is_nothing_to_the_encoder(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    encoder = new_text_encoder(tokenizer, width=32, layers=2).eval()
    short, long = "a red figure", "a large red figure on a plain grey background, waves both arms"
    alone = tokenizer(short, return_tensors="pt")
    together = tokenizer([short, long], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = encoder(**alone).last_hidden_state[0]
        got = encoder(**together).last_hidden_state[0, : len(expected)]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_looks_are_told_apart_by_each_attribute() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    looks = list({Appearance.random(rng): None for _ in range(40)})
    table = LookVectors(16)
    vectors = table(looks)
    assert torch.equal(vectors, table(looks))
    distances = torch.cdist(vectors, vectors) + torch.eye(len(looks))
    assert distances.min() > 1e-3


class _Enough(Exception):
    """Ends a training that has shown what it draws."""


def test_captions_and_motions_of_held_out_classes_stay_out_of_training(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str | None] = []
    motion, text = room.sample_motion, room.caption

    def record_motion(name: str | None, *args: Any) -> Any:
        shown.append(name)
        return motion(name, *args)

    def record_caption(look: Any, action: Any, rng: Any) -> str:
        shown.append(action)
        return text(look, action, rng)

    def stop_after_three(title: str, parameters: Any, schedule: Schedule, loss_of_step: Any, console: Console) -> None:
        for step in range(3):
            loss_of_step(step)
        raise _Enough

    monkeypatch.setattr(room, "sample_motion", record_motion)
    monkeypatch.setattr(room, "caption", record_caption)
    monkeypatch.setattr(room, "fit", stop_after_three)
    encoder = new_text_encoder(tokenizer, width=16, layers=1)
    with pytest.raises(_Enough):
        room.train_text_encoder(
            tokenizer, encoder, Schedule(3, 64, 1e-3), seed=0, console=Console(file=io.StringIO()), pool=24
        )
    assert len(shown) > 300
    assert {SPLITS[name] for name in shown if name} == {"train"}
