"""What comes of a fault's action, in every mode."""

from __future__ import annotations

from dataclasses import dataclass


class Missed(Exception):
    """There is nothing that the fault could act on; the message says why."""


@dataclass(slots=True)
class Effects:
    """How many times a fault took effect."""

    count: int = 0

    def add(self, n: int = 1) -> None:
        self.count += n
