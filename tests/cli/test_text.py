"""Text keys: what was typed is what arrives, whatever it holds."""

import random
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from lofa.cli.text import literal, plain_arguments, quote_text

NASTY = [
    "",
    " ",
    "  two spaces before and after  ",
    "it's (here), now!",
    "she said \"wait\", and 'ran'",
    "a,b",
    "[a,b]",
    "{a:1}",
    "a=b=c",
    "${data}",
    "\\${data}",
    "\\\\${data}\\",
    "${",
    "$HOME",
    "???",
    "????",
    "null",
    "true",
    "1",
    "1e-3",
    "nan",
    "~",
    "+x",
    "--help",
    "# no comment",
    "a: b",
    "%s %d {0}",
    "ends in a backslash \\",
    "'",
    '"',
    "\\'",
    '\\"',
    "\ttab",
    "line one\nline two",
    "Ein Mädchen läuft 走る 🏃",
    "choice(a,b)",
    "glob(*)",
    "C:\\clips\\new",
    "/tmp/a b/(c), d!.mp4",
    "@package",
    "prompt=x",
]
PARSER = OverridesParser.create()
PROMPTS = Path(__file__).parents[3] / "shared" / "assets" / "prompts" / "vbench_human_action.txt"


def through_hydra(text: str) -> str:
    (argument,) = quote_text([f"prompt={text}"], {"prompt"})
    config = OmegaConf.create({"prompt": ""})
    OmegaConf.update(config, "prompt", PARSER.parse_override(argument).value())
    return str(config.prompt)


@pytest.mark.parametrize("text", NASTY)
def test_text_arrives_as_typed(text: str) -> None:
    assert through_hydra(text) == text


def test_random_text_arrives_as_typed() -> None:
    pieces = ["\\", "'", '"', "$", "{", "}", "${", "a", " ", "???", "\n", ",", "(", "=", "#", "!", "~", "\\$"]
    draw = random.Random(0)
    for _ in range(150):
        text = "".join(draw.choices(pieces, k=draw.randint(0, 8)))
        assert through_hydra(text) == text


@pytest.mark.skipif(not PROMPTS.is_file(), reason="the folder of real inputs is not here")
def test_every_real_prompt_arrives_as_typed() -> None:
    lines = PROMPTS.read_text(encoding="utf-8").splitlines()
    assert [through_hydra(line) for line in lines] == lines


@pytest.mark.parametrize("text", NASTY)
def test_plain_arguments_inverts_quoting(text: str) -> None:
    arguments = [f"prompt={text}", f"+prompt={text}", "rank=[1,2]"]
    assert plain_arguments(quote_text(arguments, {"prompt"}), {"prompt"}) == arguments


@pytest.mark.parametrize("text", NASTY)
def test_literal_reads_back(text: str) -> None:
    assert OmegaConf.create({"text": literal(text)}).text == text


def test_entries_of_a_text_mapping_are_text() -> None:
    assert quote_text(["+predictors.other=a,b", "rank=1,2"], {"predictors"}) == ["+predictors.other='a,b'", "rank=1,2"]
