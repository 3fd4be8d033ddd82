"""Text: the backbone's own text encoder has already made tokens of the prompt, so nothing is left to learn here."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["TextEncoder"]


class TextEncoder(nn.Module):
    """Hands text tokens through. `width` is their feature count `C`."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.width = width

    @property
    def config(self) -> dict[str, int]:
        """Constructor values."""
        return {"width": self.width}

    def forward(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Text tokens `(B, N, C)` and lengths `(B,)`, unchanged; ValueError where `C` is not `width`."""
        if values.ndim != 3 or values.shape[-1] != self.width:
            raise ValueError(f"text tokens must be (B, N, {self.width}); got {tuple(values.shape)}")
        return values, lengths
