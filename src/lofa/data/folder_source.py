"""Real videos or images in a folder, with captions in a csv or jsonl or in a .txt beside each clip.

A caption file has one row a clip: the video (`file`, `file_name`, `video` or `path`, relative to the caption file), the
caption (`caption`, `text` or `prompt`), and where wanted `group` (or `action`, `label`, `class`), `split` and `role`.
Without a group a clip belongs to the folder it lies in, and in the top folder to itself.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lofa.data.options import PrepareOptions
from lofa.data.samples import ROLES, SPLIT_NAMES, Sample
from lofa.data.source import ClipShape, ClipSource, Loaded, Plan, Skipped, draw_split, give_roles, slug
from lofa.data.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES, read_clip
from lofa.errors import DataError

__all__ = ["CAPTION_FILES", "FolderSource"]

CAPTION_FILES = ("captions.csv", "captions.jsonl", "metadata.csv", "metadata.jsonl")
_SUFFIXES = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
_COLUMNS = {
    "file": ("file", "file_name", "video", "image", "path"),
    "caption": ("caption", "text", "prompt"),
    "group": ("group", "action", "label", "class"),
    "split": ("split",),
    "role": ("role",),
}


@dataclass(frozen=True)
class _Entry:
    path: Path
    caption: str
    group: str = ""
    split: str = ""
    role: str = ""


class FolderSource(ClipSource):
    """Videos of a folder (searched through), or those a caption file names."""

    def __init__(self, path: Path, options: PrepareOptions, shape: ClipShape) -> None:
        self.name, self.options, self.shape = str(path), options, shape
        self.root = path if path.is_dir() else path.parent
        self.table = path if path.is_file() else self._find_table(path)
        self.clips: dict[str, tuple[Path, int]] = {}

    def _find_table(self, folder: Path) -> Path | None:
        given = self.options.captions
        names = CAPTION_FILES if given is None else (Path(given).absolute(), given)
        found = next((folder / name for name in names if (folder / name).is_file()), None)
        if given is not None and found is None:
            raise DataError(f"captions={given}: no such file, neither as it stands nor in {folder}")
        return found

    def _videos(self) -> list[Path]:
        return sorted(p for p in self.root.rglob("*") if p.is_file() and p.suffix.lower() in _SUFFIXES)

    def plan(self) -> Plan:
        """One sample a clip, sorted by path; a video without a caption or a caption without a video is skipped."""
        entries, skipped = self._from_table(self.table) if self.table else self._from_texts()
        samples, roles, stamps = [], [], {}
        for entry in sorted(entries, key=lambda entry: entry.path):
            stat = entry.path.stat()
            for window in range(self.options.clips_per_video):
                sample = self._sample(entry, window)
                self.clips[sample.id] = (entry.path, window)
                stamps[sample.id] = f"{stat.st_size} {stat.st_mtime_ns} {window}/{self.options.clips_per_video}"
                samples.append(sample)
                roles.append(entry.role)
        drawn = give_roles(samples, self.options.test_adapt)
        done = [replace(sample, role=given or sample.role) for sample, given in zip(drawn, roles, strict=True)]
        return Plan(done, skipped, stamps)

    def _sample(self, entry: _Entry, window: int) -> Sample:
        o = self.options
        try:
            relative = entry.path.resolve().relative_to(self.root.resolve()).as_posix()
        except ValueError:  # a caption file may name videos anywhere
            relative = entry.path.as_posix()
        name = slug(relative) + (f"-{window}" if o.clips_per_video > 1 else "")
        folder = Path(relative).parent.name
        group = entry.group or folder or slug(relative)
        shape, split = self.shape, entry.split or draw_split(group, o)
        return Sample(
            name, entry.caption, split, group, "adapt", str(entry.path), shape.frames, shape.size, shape.fps, window
        )

    def _from_texts(self) -> tuple[list[_Entry], list[Skipped]]:
        entries, skipped = [], []
        for path in self._videos():
            side = path.with_suffix(".txt")
            try:
                words, reason = side.read_text(encoding="utf-8-sig").split(), "it is empty"
            except (OSError, UnicodeDecodeError) as error:
                words, reason = [], str(error)
            if words:
                entries.append(_Entry(path, " ".join(words)))
            else:
                missing = f"caption missing: none in {side.name} beside it ({reason}), no captions.csv or .jsonl"
                skipped.append(Skipped(str(path), missing))
        return entries, skipped

    def _from_table(self, table: Path) -> tuple[list[_Entry], list[Skipped]]:
        entries: dict[Path, _Entry] = {}
        skipped: list[Skipped] = []
        for line, row in _rows(table):
            named = {key: next((row[c].strip() for c in names if row.get(c)), "") for key, names in _COLUMNS.items()}
            path = table.parent / named["file"]
            source = str(path) if named["file"] else f"{table}:{line}"
            reason = _row_fault(named, path, path in entries)
            if reason is None:
                words = " ".join(named["caption"].split())
                entries[path] = _Entry(path, words, named["group"], named["split"], named["role"])
            else:
                skipped.append(Skipped(source, f"{reason} ({table.name}, line {line})"))
        known = {path.resolve() for path in entries} | {Path(skip.source).resolve() for skip in skipped}
        skipped += [
            Skipped(str(path), f"caption missing: no row in {table.name}")
            for path in self._videos()
            if path.resolve() not in known
        ]
        return list(entries.values()), skipped

    def load(self, samples: Sequence[Sample]) -> list[Loaded | DataError]:
        """Decodes the samples one after the other."""
        loaded: list[Loaded | DataError] = []
        for sample in samples:
            path, window = self.clips[sample.id]
            try:
                loaded.append(read_clip(path, self.shape, window, self.options.clips_per_video))
            except DataError as error:
                loaded.append(error)
        return loaded


def _row_fault(row: dict[str, str], path: Path, seen: bool) -> str | None:
    if not row["file"]:
        return f"no video named; the column is one of {', '.join(_COLUMNS['file'])}"
    if not path.is_file():
        return "no such file"
    if not row["caption"]:
        return f"caption missing; the column is one of {', '.join(_COLUMNS['caption'])}"
    if seen:
        return "named twice; the first row counts"
    for name, words in (("split", SPLIT_NAMES), ("role", ROLES)):
        if row[name] not in ("", *words):
            return f"{name} {row[name]!r} is none of {', '.join(words)}"
    return None


def _rows(table: Path) -> list[tuple[int, dict[str, str]]]:
    """Line numbers and rows of a csv or jsonl as text; wrong lines of a jsonl are rows without columns."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{table}: not a caption file in utf-8 ({error})") from None
    if table.suffix.lower() == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        return [(reader.line_num, {k: v for k, v in row.items() if k and isinstance(v, str)}) for row in reader]
    rows: list[tuple[int, dict[str, str]]] = []
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except ValueError:
            row = None
        rows.append((line, {k: str(v) for k, v in row.items() if v is not None} if isinstance(row, dict) else {}))
    return rows
