"""What a user may set about the preparation of a data set."""

from dataclasses import dataclass

from lofa.options import Options, option, text

__all__ = ["SPLIT_NAMES", "PrepareOptions"]

SPLIT_NAMES = ("train", "val", "test")


@dataclass(frozen=True)
class PrepareOptions(Options):
    """How a set is prepared; what is None comes from the backbone's own sampling defaults."""

    frames: int | None = option(
        None, "frames of a clip, 4 k + 1 for Wan; none: the backbone's, as for the next three", least=1
    )
    height: int | None = option(None, "pixels", least=1)
    width: int | None = option(None, "pixels", least=1)
    fps: float | None = option(None, "frames a second", above=0)
    batch: int = option(16, "clips rendered and encoded at once", least=1)
    dtype: str = option(
        "float16",
        "how latents and text are stored: float16, bfloat16 or float32",
        among=("float16", "bfloat16", "float32"),
    )
    seed: int = option(0, "of splits and of the procedural world")
    train_classes: int | None = option(None, "world: classes of the training split; none: all, as for the next two")
    val_classes: int | None = option(None, "world: classes of the validation split")
    test_classes: int | None = option(None, "world: classes of the test split")
    train_clips: int = option(4, "world: clips of a training class", least=1)
    val_clips: int = option(
        4, "world: clips of a validation class; the first half to adapt on, the rest to score", least=0
    )
    test_adapt: int = option(
        4, "clips of a test class that adaptation may see; of a smaller class of real clips half", least=1
    )
    test_score: int = option(4, "world: clips of a test class kept for scoring", least=0)
    captions: str | None = text(
        None,
        "folder: a csv or jsonl of captions; none: captions.* or metadata.* in it, then .txt beside clips",
    )
    clips_per_video: int = option(1, "folder: clips cut out of one video, evenly placed", least=1)
    val_fraction: float = option(
        0.1, "folder: share of the groups that go to val, by hash of the group's name", least=0, below=1
    )
    test_fraction: float = option(0.1, "folder: share of the groups that go to test", least=0, below=1)
    held_out_labels: tuple[str, ...] = option((), "poses: labels that make the test split")
    held_out_fraction: float = option(0.1, "poses: share of the other sequences that goes to val", least=0, below=1)
    phrases: dict[str, str] = option(
        {},
        'poses: label -> what its caption says the figure does ("golf": "swings a golf club"); else the label as verb',
    )
