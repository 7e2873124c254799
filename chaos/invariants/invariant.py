"""The promises of the design, by name, and what a checker says of one."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Id(enum.Enum):
    """Every invariant of a run."""

    OUTPUT = "OUTPUT"
    TENANT = "TENANT"
    AUTHORITY = "AUTHORITY"
    MONOTONE = "MONOTONE"
    PHANTOM = "PHANTOM"
    CONVERGE = "CONVERGE"
    ACCOUNT = "ACCOUNT"
    AVAILABLE = "AVAILABLE"
    NO_WORSE = "NO-WORSE"
    BOUNDED = "BOUNDED"
    LIVE = "LIVE"
    CLEAN = "CLEAN"


class Status(enum.Enum):
    """What a checker found."""

    HELD = "held"
    VIOLATED = "violated"
    NOT_EXERCISED = "not exercised"


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """Two facts of a history that contradict each other; ``events`` are indices into it."""

    expected: str
    found: str
    events: tuple[int, ...] = ()
    node: str = ""
    request: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One invariant after one run.

    ``exercised`` counts the facts that were compared, ``voided`` those that an active fault took
    out of the comparison. ``share_of_bound`` is what was measured over what is allowed, where the
    invariant has a number (1.0 is the bound itself).
    """

    invariant: Id
    status: Status
    exercised: int = 0
    voided: int = 0
    witnesses: tuple[Witness, ...] = field(default=())
    share_of_bound: float | None = None


def finding(
    invariant: Id,
    *,
    exercised: int,
    witnesses: tuple[Witness, ...] | list[Witness],
    voided: int = 0,
    share_of_bound: float | None = None,
) -> Finding:
    """A finding whose status follows from what was counted."""
    status = Status.HELD if exercised else Status.NOT_EXERCISED
    return Finding(
        invariant=invariant,
        status=Status.VIOLATED if witnesses else status,
        exercised=exercised,
        voided=voided,
        witnesses=tuple(witnesses),
        share_of_bound=share_of_bound,
    )
