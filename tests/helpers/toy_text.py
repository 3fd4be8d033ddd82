"""An encoder of one's own for a kind that there is."""

from lofa.conditions import Padded, TextEncoder, Tokens


class ScaledText(TextEncoder):
    def __init__(self, *, width: int, scale: float) -> None:
        super().__init__(width=width)
        self.scale = scale

    @property
    def config(self) -> dict[str, float]:
        return {"width": self.width, "scale": self.scale}

    def encode(self, rows: Padded) -> Tokens:
        tokens, lengths = super().encode(rows)
        return Tokens(self.scale * tokens, lengths)
