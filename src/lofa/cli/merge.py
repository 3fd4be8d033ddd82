"""lofa merge: an adapter into its backbone -> a diffusers folder."""

from pathlib import Path

from lofa.adapters import Adapter
from lofa.backbones import backbone_folder, check_merge_target, load_backbone, merge_adapter
from lofa.cli.commands import MergeConfig
from lofa.errors import BackboneError, ConfigError
from lofa.files import digest
from lofa.workflows import check_made_for

__all__ = ["merge"]


def merge(config: MergeConfig) -> Path:
    """Writes the merged folder."""
    adapter = Adapter.load(config.adapter)
    model = config.model or adapter.metadata.get("backbone")
    if model is None:
        raise ConfigError(f"adapter={config.adapter}: does not say which backbone it is for; give backbone=<folder>")
    folder, out = backbone_folder(model), Path(config.out)
    check_merge_target(folder, out, config.overwrite)
    check_made_for(f"adapter={config.adapter}", adapter, load_backbone(model))
    file = Path(config.adapter)
    note = {"adapter": file.name} | ({"sha256": digest(file)} if file.is_file() else {})
    try:
        merge_adapter(folder, adapter, out, config.strength, note, config.overwrite)
    except BackboneError as error:
        raise BackboneError(f"adapter={config.adapter}: {error}") from None
    print(f"{out}: {folder} with {len(adapter)} layers changed, strength {config.strength:g}")
    return out
