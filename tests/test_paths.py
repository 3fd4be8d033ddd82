"""Names and places from files: one component, below its folder, whatever links there are."""

from pathlib import Path

import pytest

from lofa.errors import DataError
from lofa.paths import check_name, inside


@pytest.mark.parametrize("name", ["bow-small-fast-000", "a", "_x.1", "Ü (2)", "0" * 200])
def test_a_name_of_a_file_is_one(name: str) -> None:
    assert check_name(name, "here") == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".x", "a/b", "../x", "/x", "a\\b", "C:x", "a\0", "a\n", "-x", " x", "a*", "~", "0" * 201, 3, None],
)  # fmt: skip
def test_anything_else_is_refused(name: object) -> None:
    with pytest.raises(DataError, match="here: .*can't be a file's name"):
        check_name(name, "here")


def test_a_place_stays_below_its_folder(tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    (home / "sub").mkdir(parents=True)
    other.mkdir()
    (home / "out").symlink_to(other)
    (home / "in").symlink_to(home / "sub")
    (tmp_path / "link").symlink_to(home)
    for path in (home / "x", home / "sub" / "x", home / "in" / "x", home / "none" / "x"):
        assert inside(home, path) is path
    assert inside(tmp_path / "link", tmp_path / "link" / "x")
    for path in (home, home / "..", home / "../other/x", home / "out", home / "out/x", other / "x", Path("/etc/x")):
        with pytest.raises(DataError, match=f"leads out of {home}"):
            inside(home, path)
