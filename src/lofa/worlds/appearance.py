"""What a clip looks like apart from its motion; every attribute is a word, and every word is said in the caption."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["BACKGROUNDS", "BODIES", "DRIFTS", "SIZES", "STYLES", "Appearance"]

Colour = tuple[int, int, int]

BODIES: dict[str, Colour] = {
    "red": (205, 40, 40), "orange": (235, 125, 20), "yellow": (228, 188, 20), "green": (40, 150, 55),
    "teal": (15, 150, 160), "blue": (45, 85, 215), "purple": (140, 60, 195), "pink": (228, 75, 150),
}  # fmt: skip
BACKGROUNDS: dict[str, Colour] = {
    "black": (14, 14, 18), "grey": (120, 120, 124), "white": (240, 240, 238), "sand": (216, 200, 168),
    "mint": (180, 220, 198), "lavender": (204, 194, 230),
}  # fmt: skip
STYLES: tuple[str, ...] = ("plain", "two-tone", "gradient", "floor")
DRIFTS: dict[str, tuple[float, float]] = {
    "still": (0, 0), "left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1),
}  # fmt: skip
SIZES: dict[str, float] = {"small": 0.60, "large": 0.74}
"""Height of the standing figure as a share of the frame."""

_DRIFT_SPEED = 0.006  # frame widths a frame: about 6 pixels of 64 in a clip of 17 frames


@dataclass(frozen=True)
class Appearance:
    """Named looks: keys of `BODIES`, `BACKGROUNDS`, `STYLES`, `DRIFTS` and `SIZES`."""

    body: str = "blue"
    background: str = "grey"
    style: str = "plain"
    drift: str = "still"
    size: str = "large"

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Appearance":
        """Every attribute drawn uniformly; half of the clips have a still camera."""
        moving = [drift for drift in DRIFTS if drift != "still"]
        return cls(
            body=str(rng.choice(list(BODIES))),
            background=str(rng.choice(list(BACKGROUNDS))),
            style=str(rng.choice(STYLES)),
            drift=str(rng.choice(moving)) if rng.random() < 0.5 else "still",
            size=str(rng.choice(list(SIZES))),
        )

    @property
    def height(self) -> float:
        """Height of the standing figure as a share of the frame."""
        return SIZES[self.size]

    @property
    def limb_radius(self) -> float:
        """Half a limb's width as a share of the frame: 2.0 to 2.4 pixels of 64."""
        return 0.032 + 0.04 * (self.height - 0.6)

    def shades(self) -> dict[str, Colour]:
        """RGB of the body, of its right limbs (always darker) and of its left limbs (always lighter)."""
        colour = np.array(BODIES[self.body], dtype=float)
        shades = {"body": colour, "right": colour * 0.62, "left": colour + (255 - colour) * 0.38}
        return {name: (int(c[0]), int(c[1]), int(c[2])) for name, c in shades.items()}

    def camera(self, frames: int) -> NDArray[np.float64]:
        """What the drift adds to every scene point, (frames, 2) in frame widths; the scene moves against the camera."""
        time = np.arange(frames) - (frames - 1) / 2
        return np.outer(time, np.array(DRIFTS[self.drift], dtype=float) * -_DRIFT_SPEED)
