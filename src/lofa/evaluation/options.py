"""What a user may set about the comparison of methods."""

from dataclasses import dataclass

from lofa.data.options import SPLIT_NAMES
from lofa.options import Options, option

__all__ = ["Protocol"]


@dataclass(frozen=True)
class Protocol(Options):
    """How methods are compared."""

    split: str = option("test", "of the data set; test holds the classes nothing was trained on", among=SPLIT_NAMES)
    groups: int = option(0, "classes used, 0 for all", least=0)
    prompts_per_group: int = option(
        1, "cases a class; each has its own anchor and its own part of the class's score clips", least=1
    )
    clips_per_prompt: int = option(0, "score clips a case at most, 0 for all", least=0)
    generated_per_prompt: int = option(0, "how many of these are generated too, 0 for all", least=0)
    noise_levels: int = option(
        4, "stratified noise levels of the denoising loss of each clip, the same for all methods", least=1
    )
    batch: int = option(16, "clips that go through the backbone at once", least=1)
    steps: int | None = option(None, "denoising steps; none: the backbone's own")
    guidance: float | None = option(None, "classifier-free guidance; none: the backbone's own")
    draws: int = option(1000, "bootstrap draws", least=1)
    seed: int = option(0, "of noise, generation and bootstrap")
    pictures: int = option(8, "cases whose clips the report shows", least=0)
