"""lofa merge: an adapter into its backbone -> a diffusers folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from lofa.adapters import Adapter
from lofa.backbones import backbone_folder, check_merge_target, load_backbone, merge_adapter
from lofa.cli.command import Command
from lofa.cli.export import overwrite
from lofa.cli.objects import check_fingerprint
from lofa.cli.options import option, text
from lofa.errors import BackboneError, ConfigError
from lofa.files import digest

__all__ = ["COMMAND", "MergeConfig"]


@dataclass
class MergeConfig:
    """Keys of lofa merge; `backbone` is the name of a group in Hydra, so its field is called `model`."""

    adapter: str = text(MISSING, "adapter file of any format, or folder of PEFT")
    out: str = text(MISSING, "folder to write; must not exist")
    overwrite: bool = overwrite()
    strength: float = option(1.0, "factor on the adapter")
    model: str | None = text(None, "name in conf/backbone or diffusers folder; none: the adapter's")


def merge(config: Any) -> Path:
    """Writes the merged folder."""
    adapter = Adapter.load(config.adapter)
    model = config.model or adapter.metadata.get("backbone")
    if model is None:
        raise ConfigError(f"adapter={config.adapter}: does not say which backbone it is for; give backbone=<folder>")
    folder, out = backbone_folder(model), Path(config.out)
    check_merge_target(folder, out, config.overwrite)
    check_fingerprint(config.adapter, adapter, load_backbone(model))
    file = Path(config.adapter)
    note = {"adapter": file.name} | ({"sha256": digest(file)} if file.is_file() else {})
    try:
        merge_adapter(folder, adapter, out, config.strength, note, config.overwrite)
    except BackboneError as error:
        raise BackboneError(f"adapter={config.adapter}: {error}") from None
    print(f"{out}: {folder} with {len(adapter)} layers changed, strength {config.strength:g}")
    return out


COMMAND = Command(
    "merge",
    MergeConfig,
    merge,
    "write a backbone with an adapter merged in, as a diffusers folder",
    (
        "lofa merge adapter=wave.safetensors out=tiny-wan-waves",
        "lofa merge adapter=wave.safetensors out=wan-waves backbone=<folder> strength=0.8",
    ),
    aliases={"backbone": "model"},
)
