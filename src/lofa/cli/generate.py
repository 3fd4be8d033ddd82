"""lofa generate: a prompt, with or without an adapter -> a clip."""

from pathlib import Path

from torch import Tensor

from lofa import workflows
from lofa.adapters import Adapter
from lofa.backbones import Backbone, load_backbone
from lofa.cli.commands import GenerateConfig
from lofa.cli.objects import load_predictor
from lofa.errors import ConfigError
from lofa.targets import check_target

__all__ = ["generate"]

_SAMPLING = ("steps", "guidance", "frames", "height", "width", "negative_prompt")


def generate(config: GenerateConfig) -> Tensor:
    """Generates one clip, uint8 (T, H, W, 3), and writes it."""
    out = Path(config.out)
    workflows.check_clip_path(out)
    check_target(out, config.overwrite)
    backbone, adapter = _load(config)
    sampling = {name: getattr(config, name) for name in _SAMPLING}
    sampling["negative_adapter"] = _negative(config.negative_adapter, backbone)
    words = ""
    if not config.compare:
        clip = backbone.generate(config.prompt, adapter, config.strength, seed=config.seed, **sampling)[0].cpu()
    elif adapter is None:
        raise ConfigError("compare=true: there is nothing to compare with; give adapter=<file> or predictor=<run>")
    else:
        seen = workflows.compare_clips(backbone, config.prompt, adapter, config.strength, config.seed, **sampling)
        clip, change = seen.clip, f"mean change {seen.change:.2f} of 255 grey levels"
        words = f", base | adapted | difference x{seen.factor}; {change}"
    workflows.write_clip(out, clip, config.fps or backbone.sampling.fps)
    print(f"{out}: {len(clip)} frames of {clip.shape[2]}x{clip.shape[1]}{words}")
    return clip


def _negative(given: str, backbone: Backbone) -> Adapter | str | None:
    if given in ("same", "none"):
        return "same" if given == "same" else None
    adapter = Adapter.load(given)
    workflows.check_adapter(f"negative_adapter={given}", adapter, backbone)
    return adapter


def _load(config: GenerateConfig) -> tuple[Backbone, Adapter | None]:
    """The backbone and the adapter, checked to belong together."""
    if config.adapter is not None and config.predictor is not None:
        raise ConfigError("adapter= and predictor= are both given: give one of them")
    if config.predictor is not None:
        predictor = load_predictor(config)
        return predictor.backbone, predictor.predict(prompt=config.prompt)
    adapter = None if config.adapter is None else Adapter.load(config.adapter)
    known = {} if adapter is None else adapter.metadata
    device = workflows.pick_device(config.device)
    backbone = load_backbone(config.model or known.get("backbone") or "tiny-wan", device)
    if adapter is not None:
        workflows.check_adapter(f"adapter={config.adapter}", adapter, backbone)
    return backbone, adapter
