"""Where the files that ship with LoFA lie: `conf/`, `data/` of a checkout, or `lofa/_share/` of an installed wheel."""

from pathlib import Path

__all__ = ["conf_dir", "data_dir"]

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = _PACKAGE.parents[1]
_ROOT = _CHECKOUT if (_CHECKOUT / "pyproject.toml").is_file() and (_CHECKOUT / "conf").is_dir() else _PACKAGE / "_share"


def conf_dir() -> Path:
    """The Hydra configuration tree."""
    return _ROOT / "conf"


def data_dir() -> Path:
    """The folder that holds the shipped models `tiny-wan/` and `tiny-metrics/`."""
    return _ROOT / "data"
