"""Loss in bursts: a good and a bad state, and in the bad one everything is lost.

E. N. Gilbert, "Capacity of a burst-noise channel", 1960; E. O. Elliott, 1963.
"""

from __future__ import annotations

from random import Random


class Bursts:
    """Draws what is lost.

    Args:
        fraction: Of what is sent, in the long run; 0 to 1.
        length: Mean number of losses in a row; 1 or more. With 1 each draw is by itself.
        rng: Where it draws from, once for each answer.
    """

    def __init__(self, fraction: float, length: float, rng: Random) -> None:
        self._rng = rng
        self._fraction = fraction
        self._alone = length == 1
        # In the long run the share of bad ones is enter / (enter + leave). Where so many are to be
        # lost that the good state lasts for a single one, bursts are longer than was asked.
        self._leave = 1.0 / length
        self._enter = self._leave * fraction / (1.0 - fraction) if fraction < 1 else 1.0
        if self._enter > 1.0:
            self._enter, self._leave = 1.0, (1.0 - fraction) / fraction
        self._bad = False

    def loses(self) -> bool:
        """Whether the next one is lost; moves the state."""
        if self._fraction >= 1:
            return True
        drawn = self._rng.random()
        if self._alone:
            return drawn < self._fraction
        self._bad = drawn >= self._leave if self._bad else drawn < self._enter
        return self._bad
