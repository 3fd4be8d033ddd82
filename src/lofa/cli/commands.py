"""Every command: its keys, what it is for, and the function that does it, imported when it runs.

So help, completion and mistakes in a command line cost no import of PyTorch.
"""

from dataclasses import dataclass

from lofa.cli.command import Command
from lofa.cli.pipeline import PipelineConfig
from lofa.options import LARGEST_SEED, REQUIRED, Options, option, text
from lofa.pretrain import Recipe
from lofa.zoo import LoraOptions

__all__ = ["COMMANDS"]

_BACKBONE = {"backbone": "model"}  # the name of a group is none of a key to Hydra


@dataclass(frozen=True, kw_only=True)
class _Writing(Options):
    """Keys of every command that has `out`."""

    overwrite: bool = option(
        False, "replace what stands at `out`: a file, or a folder that this command wrote; else it is refused"
    )


@dataclass(frozen=True, kw_only=True)
class _Exporting(_Writing):
    """Keys of commands that write one adapter."""

    format: str = option("diffusers", "diffusers, comfyui, kohya, peft or reference")
    dtype: str | None = option(
        None,
        "precision of the file: float32, bfloat16, float16, float8_e4m3fn; none: as it is",
        among=("float32", "bfloat16", "float16", "float8_e4m3fn"),
    )
    rank: int | None = option(
        None, "highest rank: the nearest adapter of it, by singular values; none: as it is", least=1
    )


@dataclass(frozen=True, kw_only=True)
class DemoConfig(PipelineConfig):
    """Keys of lofa demo."""

    name: str | None = text(None, "folder in paths.runs for what is made; none: that of the experiment: demo, smoke")
    source: str = text("world", "as for lofa prepare")
    prompt: str | None = text(None, "prompt of the clip that is generated; none: the caption of a held-out clip")


@dataclass(frozen=True, kw_only=True)
class PrepareConfig(PipelineConfig):
    """Keys of lofa prepare."""

    source: str = text(
        REQUIRED, "folder of videos, csv or jsonl of captions, npz of poses, reference:<folder>, or world"
    )


@dataclass(frozen=True, kw_only=True)
class ZooConfig(PipelineConfig):
    """Keys of lofa zoo."""

    action: str = option(
        "build",
        "build; retry: those in quarantine too; verify: check every file",
        among=("build", "retry", "verify"),
    )
    shard: str = option("1/1", "part i of n, i/n; the parts may run at the same time on machines that share the folder")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(PipelineConfig):
    """Keys of train.py."""

    stage: int | None = option(None, "1: response map; 2: adapter, after stage 1")
    response: str | None = text(
        None, "stage 2: run directory of stage 1; none: the newest finished one of this data, task and backbone"
    )
    resume: str | None = text(
        None, "run directory to go on with; its configuration is used, values given here come on top"
    )
    trust_run: bool = option(
        False,
        "resume: build whatever class the run's config.yaml names, read checkpoints in several files; both run code "
        "that lies in the run",
    )


@dataclass(frozen=True, kw_only=True)
class EvalConfig(PipelineConfig):
    """Keys of eval.py."""

    methods: tuple[str, ...] = option(
        ("base", "lora", "lora_shared", "lofa", "lofa_shuffled", "lofa_sibling"),
        "names in `method` or `predictors`; with _shuffled behind: its adapters, mixed up",
    )
    predictor: str | None = text(
        None, "run of train.py stage=2; none: the newest finished one of this data, task and backbone"
    )
    predictors: dict[str, str] = text(
        {}, "further predictors: +predictors.<name>=<run>, as methods <name> and <name>_sibling"
    )


@dataclass(frozen=True, kw_only=True)
class PredictConfig(_Exporting):
    """Keys of lofa predict."""

    predictor: str | None = text(None, "run directory of train.py stage=2; none: the one finished last in `runs`")
    prompt: str | None = text(None, "what the adapter is for, in words")
    pose: str | None = text(None, "or a pose sequence (frames, joints, 2): .npy, .npz or .json")
    image: str | None = text(None, "or an image, for predictors that take one")
    out: str = text("adapter.safetensors", "file to write (format=peft: a folder)")
    device: str = option("auto", "cpu, cuda, cuda:1 or auto")
    model: str | None = text(None, "where the predictor's backbone lies now; none: where it was in training")
    runs: str = text("runs", "folder of the runs, where `predictor` is looked for")


@dataclass(frozen=True, kw_only=True)
class _TuningOptions(LoraOptions):
    """How an adapter is tuned: the curve needs measurements."""

    validate_every: int = option(
        4, "steps between measurements on the clips that it is not trained on; the best step is kept", least=1
    )


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(PipelineConfig, _Writing):
    """Keys of lofa finetune."""

    init: str | None = text(None, "adapter file of any format to start from; none: from nothing")
    group: str | None = text(None, "class of the set whose clips it is trained on; none: the set's only one")
    out: str = text("tuned.safetensors", "file to write; the curve goes beside it, as .json and .html")
    format: str = option("diffusers", "diffusers, comfyui, kohya, peft or reference")
    compare: bool = option(False, "also train from nothing, and say after how many steps each is as good")
    finetune: _TuningOptions = _TuningOptions()


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(_Writing):
    """Keys of lofa generate."""

    prompt: str = text(REQUIRED, "what the clip shows")
    out: str = text("clip.mp4", "file to write: .mp4 or .gif")
    adapter: str | None = text(None, "adapter file of any format")
    predictor: str | None = text(
        None, "or a run directory of train.py stage=2: the adapter is predicted from the prompt"
    )
    strength: float = option(1.0, "factor on the adapter")
    compare: bool = option(
        False, "clip without the adapter | with it, from the same noise | their difference, amplified"
    )
    seed: int = option(0, "of the noise", least=0, most=LARGEST_SEED)
    steps: int | None = option(None, "denoising steps; none: the backbone's own, as for all that follow", least=1)
    guidance: float | None = option(None, "classifier-free guidance; 1: none", least=0)
    frames: int | None = option(None, "frames of the clip, 4 k + 1 for Wan", least=1)
    height: int | None = option(None, "pixels", least=1)
    width: int | None = option(None, "pixels", least=1)
    fps: float | None = option(None, "frames a second of the file", least=0.1, most=1000)
    negative_prompt: str = text("", "what guidance leads away from")
    negative_adapter: str = text("same", "what the backbone carries there: same, none, or another adapter file")
    model: str | None = text(None, "name in conf/backbone, folder or hub id; none: the adapter's, or tiny-wan")
    device: str = option("auto", "cpu, cuda, cuda:1 or auto")


@dataclass(frozen=True, kw_only=True)
class ConvertConfig(_Exporting):
    """Keys of lofa convert."""

    source: str | None = text(
        None, "adapter file, or folder of PEFT; its format is seen from its content. Or the folder of a set"
    )
    out: str = text(REQUIRED, "file to write (format=peft, or a set: a folder)")
    predictor: str | None = text(
        None, "of a set, format=reference: run whose stage 1 gives the tokens in stage1/; none: without them"
    )
    device: str = option("auto", "for the predictor: cpu, cuda, cuda:1 or auto")


@dataclass(frozen=True, kw_only=True)
class MergeConfig(_Writing):
    """Keys of lofa merge."""

    adapter: str = text(REQUIRED, "adapter file of any format, or folder of PEFT")
    out: str = text(REQUIRED, "folder to write; must not exist")
    strength: float = option(1.0, "factor on the adapter")
    model: str | None = text(None, "name in conf/backbone or diffusers folder; none: the adapter's")


@dataclass(frozen=True, kw_only=True)
class InspectConfig(_Writing):
    """Keys of lofa inspect."""

    path: str = text(REQUIRED, "adapter file or PEFT folder, .safetensors file, data set, run, predictor or model")
    layers: bool = option(False, "also one line a layer or tensor")
    model: str | None = text(
        None, "of an adapter: name in conf/backbone or folder whose W it is measured against; none: the adapter's"
    )
    tau: float = option(0.02, "relative change from which on an entry of W counts as responding", least=0)
    out: str | None = text(None, "of an adapter: .png to write, its change by depth and kind of layer")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(Options):
    """Keys of lofa pretrain."""

    out: str = text("pretrained", "folder that gets tiny-wan/ and tiny-metrics/; parts that are there are kept")
    recipe: Recipe = Recipe()


_ALL = (
    Command("demo", DemoConfig, "lofa.cli.demo.demo", "prepare zoo stages hypernet evaluation backbone paths"),
    Command("prepare", PrepareConfig, "lofa.cli.sets.prepare", "prepare backbone paths"),
    Command("zoo", ZooConfig, "lofa.cli.sets.zoo", "zoo backbone paths"),
    Command(
        "train",
        TrainConfig,
        "lofa.cli.train.train",
        "stages hypernet task datamodule strategy trainer logger callbacks backbone paths",
        program="train.py",
    ),
    Command(
        "eval",
        EvalConfig,
        "lofa.cli.evaluate.evaluation",
        "evaluation method metrics task backbone paths",
        program="eval.py",
    ),
    Command("predict", PredictConfig, "lofa.cli.adapters.predict", aliases=_BACKBONE),
    Command("finetune", FinetuneConfig, "lofa.cli.generate.finetune", "finetune backbone paths"),
    Command("generate", GenerateConfig, "lofa.cli.generate.generate", aliases=_BACKBONE),
    Command("convert", ConvertConfig, "lofa.cli.adapters.convert", aliases={"in": "source"}),
    Command("merge", MergeConfig, "lofa.cli.adapters.merge", aliases=_BACKBONE),
    Command("inspect", InspectConfig, "lofa.cli.adapters.inspect", aliases=_BACKBONE),
    Command("pretrain", PretrainConfig, "lofa.cli.sets.pretrain", "recipe"),
)

COMMANDS = {command.name: command for command in _ALL}
