"""One finished run: what checkers, reports and the shrinker are given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from chaos.history import Event, What
from chaos.scenario.schedule import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """What the same requests did without an overlay, each at its own ingress.

    ``tokens``: each request alone on a cold engine without a cache (OUTPUT). ``ttft_s``: all of
    them at their ingresses' engines, with each engine's own cache and queue (NO-WORSE).
    """

    tokens: Mapping[str, tuple[int, ...]]
    ttft_s: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Size of a run. ``deliveries`` are chunks or messages that a network carried."""

    simulated_s: float
    wall_s: float
    deliveries: int
    trace: str
    """Digest of the ordered trace; two runs of one schedule share it in simulation."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """A schedule, its history and the ground truth beside it. A run is only equal to itself."""

    schedule: Schedule
    events: tuple[Event, ...]
    twin: Twin
    totals: Totals
    plant: str | None = None
    notes: tuple[str, ...] = field(default=())


SEEN = {
    "remote_hit": "a peer answered for another from its own cache",
    "second_try": "a request was sent on to another peer, or run at its ingress after all",
    "resumed": "an answer went on at another peer in mid-stream",
    "stale_claim_recovered": "a request sent for a claim that was false was answered nevertheless",
    "converged": "after healing every replica agreed with its origin",
}
"""Marks that follow from other events of a history, besides those that a mode writes."""


@lru_cache(maxsize=1)
def marks(run: Run) -> frozenset[str]:
    """The marks that a run reached."""
    found: set[str] = set()
    deceived: set[str] = set()
    for event in run.events:
        if event.what is What.MARK:
            found.add(event.subject)
        elif event.what is What.CONVERGED:
            found.add("converged")
        elif event.what is What.ROUTED:
            node = event.data["node"]
            if event.data["claims"].get(node, 0) > event.data["held"].get(node, 0):
                deceived.add(event.subject)
        elif event.what is What.OK:
            found.update(_of_answer(event, deceived=event.subject in deceived))
    return frozenset(found)


def _of_answer(event: Event, *, deceived: bool) -> list[str]:
    data = event.data
    shown = {
        "remote_hit": data.get("hops", 0) > 0 and data.get("cached_tokens", 0) > 0,
        "second_try": data.get("attempts", 0) > 1,
        "resumed": data.get("resumes", 0) > 0,
        "stale_claim_recovered": deceived,
    }
    return [mark for mark, seen in shown.items() if seen]
