"""What files are compared with where there is no backbone."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stamp:
    """Accepts one fingerprint."""

    fingerprint: str

    def accepts(self, fingerprint: str | None) -> bool:
        return fingerprint == self.fingerprint
