"""What the repository says about itself is true: commands and files named in the texts, pins, what git keeps out."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lofa.cli import COMMANDS
from lofa.cli.options import list_options

ROOT = Path(__file__).parents[2]
TEXTS = ["README.md", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md")))]
PROGRAMS = {"train.py": "train", "eval.py": "eval"}
SWITCHES = {"-m", "--multirun", "--help", "--cfg"}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        pytest.fail(done.stderr)
    return done.stdout


def _code(text: str) -> str:
    """Code blocks and code spans, continued lines joined."""
    blocks = re.findall(r"```.*?```", text, re.DOTALL)
    spans = re.findall(r"`[^`\n]+`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return "\n".join([*blocks, *(span.strip("`") for span in spans)]).replace("\\\n", " ")


@pytest.mark.parametrize("name", TEXTS)
def test_commands_in_the_texts_exist_with_their_keys(name: str) -> None:
    code = _code((ROOT / name).read_text(encoding="utf-8"))
    lines = [(match[1], match[2]) for match in re.finditer(r"(?:^|\s)lofa ([a-z]+)\b([^\n|#]*)", code)]
    lines += [(PROGRAMS[m[1]], m[2]) for m in re.finditer(r"\bpython (train\.py|eval\.py)([^\n|#]*)", code)]
    groups = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()}
    for command, arguments in lines:
        assert command in COMMANDS, f"{name}: no command {command}"
        found = COMMANDS[command]
        keys = {option.name for option in list_options(found.schema)} | set(found.aliases)
        # a group's parts may be given too (zoo.rank, evaluation.steps), and values by group (hypernet=paper)
        keys |= {key.partition(".")[0] for key in keys} | groups | {"hydra"}
        for key in re.findall(r"(?:^|\s)\+*([a-z_]+)[\w.@]*=", re.sub(r'"[^"]*"', "", arguments)):
            assert key in keys, f"{name}: `{command}` has no key {key}"


@pytest.mark.parametrize("name", TEXTS)
def test_files_in_the_texts_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", text):
        assert ((ROOT / name).parent / target).exists(), f"{name} points to {target}"


def test_targets_in_the_readme_are_made() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = _code((ROOT / "README.md").read_text(encoding="utf-8"))
    named = set(re.findall(r"\bmake ([a-z]+)", text + (ROOT / ".ci" / "run").read_text(encoding="utf-8")))
    assert {"demo", "test"} <= named <= targets


def test_rooms_in_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rooms = {path.parent.name for path in (ROOT / "src" / "lofa").glob("*/__init__.py")}
    map_of_rooms = text.split("## Where things are")[1].split("```")[1]
    assert {room for room in rooms if not re.search(rf"\b{room}\b", map_of_rooms)} == set()


def test_pins_parse_and_satisfy_the_requirements() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    versions = {}
    for pin in pins:
        (specifier,) = pin.specifier
        assert specifier.operator == "==", f"{pin}: a pin names one version"
        versions[canonicalize_name(pin.name)] = specifier.version
    assert len(versions) == len(pins)
    assert versions["torch"] == "2.13.0"
    assert "torchvision" not in versions
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    for line in [*project["dependencies"], *extras["dev"], *extras["sweep"]]:
        wanted = Requirement(line)
        version = versions.get(canonicalize_name(wanted.name))
        assert version is None or wanted.specifier.contains(version, prereleases=True), f"{line}, but {version} pinned"
    for line in project["dependencies"]:
        assert canonicalize_name(Requirement(line).name) in versions, f"constraints.txt has no pin for {line}"


@pytest.mark.parametrize(
    "path, kept_out",
    [
        ("data/mine/samples.jsonl", True),
        ("data/mine/zoo/a.safetensors", True),
        ("runs/demo/report.html", True),
        ("runs/text_action/stage1/checkpoints/last.ckpt", True),
        (".venv/bin/python", True),
        ("data/tiny-wan/model_index.json", False),
        ("data/tiny-wan/transformer/diffusion_pytorch_model.safetensors", False),
        ("data/tiny-metrics/clip/config.json", False),
        ("src/lofa/data/samples.py", False),
        ("tests/data/test_samples.py", False),
        ("conf/backbone/tiny-wan.yaml", False),
    ],
)
def test_git_keeps_out_what_users_make_and_nothing_else(path: str, kept_out: bool) -> None:
    assert bool(_git("check-ignore", "--no-index", path)) == kept_out


def test_no_text_names_a_place_on_the_machine_it_was_made_on() -> None:
    """Also what the shipped models say of themselves; tests may use /tmp as an example."""
    homes, temporary = re.compile(r"(?<![\w.])/(?:home|root|work|Users)/\w"), re.compile(r"(?<![\w.])/tmp/\w")
    found = []
    for name in _git("ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        path = ROOT / name
        if not path.is_file() or path.suffix == ".safetensors":
            continue
        text = path.read_text(encoding="utf-8", errors="ignore")
        if homes.search(text) or (temporary.search(text) and not name.startswith("tests/")):
            found.append(name)
    assert not found
