"""Adapter files: written and read back, held against a backbone, and what they hold in words."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch

from lofa.adapters import Adapter
from lofa.adapters.families import FAMILIES, locate_layer
from lofa.adapters.formats import FORMATS
from lofa.adapters.formats.container import RawFile
from lofa.backbones import (
    Backbone,
    WeightFolder,
    backbone_folder,
    check_merge_target,
    load_backbone,
    merge_adapter,
)
from lofa.errors import BackboneError, ConfigError
from lofa.evaluation import Grid, LayerChange, draw_grids, measure_change, say_change, total_relative
from lofa.files import digest

__all__ = ["Facts", "adapter_facts", "check_adapter", "export_adapter", "merge", "span"]

Facts = dict[str, str]
_EXACT = 1e-6
"""Below this distance two adapters are the same up to float32's rounding."""


def export_adapter(
    adapter: Adapter,
    out: str | Path,
    format: str = "diffusers",
    dtype: torch.dtype | None = None,
    rank: int | None = None,
    overwrite: bool = False,
) -> str:
    """Writes `out` in `format`, `dtype` and at most `rank`, and reads it again.

    Returns:
        what was written, in words: format, layers, rank, and the distance from the adapter in norms of the update
    """
    less = adapter if rank is None else adapter.reduced(rank)
    files = less.save(out, format, dtype, overwrite)
    written = dict(item for file in files for item in Adapter.load(file).items())
    distance = adapter.distance(written)
    ranks = sorted({pair.rank for pair in less.values()})
    lost = "exact" if distance < _EXACT else f"off by {distance:.2g} of the update's norm"
    parts = f" in {' and '.join(file.name for file in files)}" if len(files) > 1 else ""
    return f"{format}, {len(less)} layers{parts}, rank {', '.join(map(str, ranks))}, {lost}"


def _check_made_for(given: str, adapter: Adapter, backbone: Backbone) -> None:
    """Refuses an adapter, `given` in words, whose header names another backbone (BackboneError)."""
    made_for = adapter.metadata.get("backbone_fingerprint")
    if made_for is not None and not backbone.accepts(made_for):
        raise BackboneError(
            f"{given}: made for the backbone {adapter.metadata.get('backbone')!r} ({made_for}), not for "
            f"{backbone.name!r} ({backbone.fingerprint}); give the right one by backbone=<name or folder>"
        )


def check_adapter(given: str, adapter: Adapter, backbone: Backbone) -> None:
    """Refuses an adapter that was made for another backbone, or has other layers (BackboneError)."""
    _check_made_for(given, adapter, backbone)
    try:
        backbone.adapter_batch(adapter)
    except BackboneError as error:
        raise BackboneError(f"{given}: {error}") from None


def merge(
    adapter: str, out: str | Path, strength: float = 1.0, model: str | None = None, overwrite: bool = False
) -> Path:
    """Writes the diffusers folder of a model with an adapter's file merged into it.

    Raises:
        LofaError: no such adapter, one that is not of `model` (None: the one that it names), or `out` stands already.
    """
    file, folder_out = Path(adapter), Path(out)
    loaded = Adapter.load(adapter)
    model = model or loaded.metadata.get("backbone")
    if model is None:
        raise ConfigError(f"adapter={adapter}: does not say which backbone it is for; give backbone=<folder>")
    folder = backbone_folder(model)
    check_merge_target(folder, folder_out, overwrite)
    _check_made_for(f"adapter={adapter}", loaded, load_backbone(model))
    note = {"adapter": file.name} | ({"sha256": digest(file)} if file.is_file() else {})
    try:
        merge_adapter(folder, loaded, folder_out, strength, note, overwrite)
    except BackboneError as error:
        raise BackboneError(f"adapter={adapter}: {error}") from None
    print(f"{out}: {folder} with {len(loaded)} layers changed, strength {strength:g}")
    return folder_out


def adapter_facts(
    raw: RawFile, format: str, model: str | None, tau: float, picture: Path | None
) -> tuple[Facts, Facts]:
    """Facts of an adapter file and a line for each layer; writes the picture.

    Raises:
        AdapterFormatError: a damaged file.
        BackboneError: `model` was given and is no backbone here, or not the adapter's.
        ConfigError: a picture of an adapter that has no layer in a block.
    """
    adapter = Adapter(*FORMATS[format].read(raw))
    weights, beside = _weights(adapter, model)
    changes = measure_change(adapter, None if weights is None else weights.weight, tau)
    facts = {
        "kind": f"adapter, {format} format",
        "in words": say_change(changes),
        "layers": str(len(adapter)),
        "rank": span(pair.rank for pair in adapter.values()),
        "alpha": span(round(float(pair.alpha), 6) for pair in adapter.values()),
        "precision": ", ".join(
            sorted({str(t.dtype).removeprefix("torch.") for t in raw.tensors.values() if t.ndim == 2})
        ),
        "norm": f"{adapter.norm():.4g}",
        "measured against": beside,
    }
    total = total_relative(changes.values())
    if total is not None:
        share = _mean_share(adapter, changes)
        single = span(float(f"{change.relative:.3g}") for change in changes.values() if change.relative is not None)
        facts["relative norm"] = f"{total:.3g} of |W|; single layers {single}"
        facts["response map"] = f"{share:.3g} of the entries move by more than {tau:g} of |W|"
    if picture is not None:
        facts["picture"] = _draw(picture, raw.path.name, changes, tau)
    parts = {name: _line(adapter, name, change) for name, change in changes.items()}
    return facts | {key: value for key, value in adapter.metadata.items() if key not in facts}, parts


def _weights(adapter: Adapter, model: str | None) -> tuple[WeightFolder | None, str]:
    """Where W is read, and that in words. Names and sizes are compared alone: a large backbone is not loaded for it."""
    known = adapter.metadata.get("backbone") if model is None else model
    if known is None:
        return None, "no backbone: the file names none; give backbone=<name or folder>"
    try:
        folder = backbone_folder(known)
        weights = WeightFolder(folder)
        weights.check(adapter)
    except BackboneError as error:
        if model is not None:
            raise
        return None, f"no backbone: {error}"
    return weights, f"{folder}"


def _mean_share(adapter: Adapter, changes: Mapping[str, LayerChange]) -> float:
    """Share of responding entries over all layers together."""
    entries = {name: pair.A.shape[1] * pair.B.shape[0] for name, pair in adapter.items()}
    return sum((changes[name].share or 0.0) * count for name, count in entries.items()) / sum(entries.values())


def _line(adapter: Adapter, name: str, change: LayerChange) -> str:
    pair = adapter[name]
    words = (
        f"{pair.B.shape[0]}x{pair.A.shape[1]}, rank {pair.rank}, alpha {float(pair.alpha):.4g}, norm {change.norm:.4g}"
    )
    if change.relative is None or change.share is None:
        return words
    return f"{words}, {change.relative:.3g} of |W|, {change.share:.3g} respond"


def _draw(path: Path, name: str, changes: Mapping[str, LayerChange], tau: float) -> str:
    places = {layer: place for layer in changes if (place := locate_layer(layer)) is not None}
    if not places:
        raise ConfigError(f"out={path}: no layer of the adapter stands in a block of a known model family")
    rows = sorted({place[:2] for place in places.values()})
    there = {place[2] for place in places.values()}
    kinds = [kind for family in FAMILIES.values() for kind in family.kinds if kind in there]
    names = [f"{component} {depth}" for component, depth in rows]

    def grid(title: str, value: Callable[[LayerChange], float]) -> Grid:
        values = torch.full((len(rows), len(kinds)), torch.nan)
        for layer, (component, depth, kind) in places.items():
            values[rows.index((component, depth)), kinds.index(kind)] = value(changes[layer])
        return Grid(title, values, names, kinds)

    if any(change.relative is None for change in changes.values()):
        grids = [grid("|delta_w|", lambda change: change.norm)]
    else:
        grids = [
            grid("|delta_w| / |W|, in %", lambda change: 100 * (change.relative or 0.0)),
            grid(f"entries that move by more than {tau:g} of |W|, in %", lambda change: 100 * (change.share or 0.0)),
        ]
    draw_grids(path, f"{name}: {say_change(changes)}", grids)
    return str(path)


def span(values: Iterable[float]) -> str:
    """Smallest to largest, or the one value that there is."""
    values = list(values)
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
