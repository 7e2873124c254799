"""How an answer differs from the one of the cold run: in what was said, or in how it was carried.

Wrong tokens are the engines' doing (OUTPUT); tokens that are right and lost, doubled or out of
order are the doing of whoever carried them (ACCOUNT). Every difference is one of the two.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Sequence


class Difference(enum.Enum):
    """What is wrong with an answer."""

    NONE = "as in the cold run"
    WRONG = "wrong tokens"
    MISPLACED = "tokens lost, doubled or reordered"


def difference(got: Sequence[int], cold: Sequence[int], *, complete: bool) -> Difference:
    """Compares the tokens that a client got with those of the cold run.

    Args:
        got: In the order in which they came.
        cold: All tokens of the cold run.
        complete: Whether the answer was said to be whole; else a beginning of it is enough.
    """
    got, cold = tuple(got), tuple(cold)
    if got == (cold if complete else cold[: len(got)]):
        return Difference.NONE
    reached = _reached(got, cold)
    lost = _reached(cold, got) == len(got)
    reordered = Counter(got) == Counter(cold[: len(got)])
    doubled = set(got) <= set(cold[:reached]) and (reached == len(cold) or not complete)
    return Difference.MISPLACED if lost or reordered or doubled else Difference.WRONG


def first_difference(got: Sequence[int], cold: Sequence[int]) -> int:
    """The first position at which two answers differ, or the shorter one has ended."""
    for position, (ours, theirs) in enumerate(zip(got, cold, strict=False)):
        if ours != theirs:
            return position
    return min(len(got), len(cold))


def _reached(whole: Sequence[int], wanted: Sequence[int]) -> int:
    """How many of ``wanted``, from the first on, occur in ``whole`` in this order."""
    count = 0
    for token in whole:
        if count < len(wanted) and token == wanted[count]:
            count += 1
    return count
