"""What may be written where something stands: nothing is removed that a write did not make.

`check_target` is asked before anything is computed for what a user named, and by every write once more.
"""

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from lofa.errors import TargetError, WriteError

__all__ = ["FILE", "NEW_FOLDER", "Kind", "check_target", "holds_only"]


@dataclass(frozen=True)
class Kind:
    """What a write makes, and may therefore replace."""

    name: str
    """in words: "a file" """
    matches: Callable[[Path], bool]
    """whether what stands at a path is of the kind, by its content"""
    folder: bool = True
    """an empty folder may be replaced, too: nothing is lost"""


FILE = Kind("a file", Path.is_file, folder=False)
NEW_FOLDER = Kind("an empty folder", lambda path: False)


def check_target(path: str | Path, overwrite: bool, kind: Kind = FILE) -> None:
    """Asks whether `path` can be written.

    Args:
        path: file or folder to write
        overwrite: what is of `kind` may be replaced
        kind: what is to be written

    Raises:
        TargetError: something stands there; with `overwrite`, something of another kind.
        WriteError: there is no folder for it, and none can be made.
    """
    path = Path(path)
    if os.path.lexists(path):
        if not kind.matches(path) and not (kind.folder and _is_empty(path)):
            raise TargetError(
                f"{path}: {_what(path)} stands there, which is never replaced ({kind.name} is, with "
                "overwrite=true); give another name, or move it away"
            )
        if not overwrite:
            raise TargetError(f"{path}: exists already; give another name, or replace it with overwrite=true")
    above = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not above.is_dir():
        raise WriteError(path, f"{above} is no folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise WriteError(path, f"nothing can be written in {above}")


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and next(path.iterdir(), None) is None


def _what(path: Path) -> str:
    if path.is_symlink():
        return "a symbolic link"
    if not path.is_dir():
        return "a file"
    names = sorted(entry.name for entry in path.iterdir())
    return f"a folder ({', '.join(names[:3])}{', ...' if names[3:] else ''})" if names else "an empty folder"


def holds_only(folder: Path, files: Collection[str]) -> bool:
    """Whether a path is a folder, no link, of exactly these files (relative paths with "/"), and nothing else."""
    found = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    if folder.is_symlink() or any(path.is_symlink() or not path.is_file() for path in found):
        return False
    return {path.relative_to(folder).as_posix() for path in found} == set(files)
