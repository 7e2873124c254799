"""The life of each request of a run, gathered from its history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from chaos.history import Event, What
from chaos.run import Run

ENDS = (What.OK, What.FAIL, What.CANCELLED, What.INFO)
"""Events that end a request; the outcome of the last one is unknown."""


@dataclass(frozen=True, slots=True)
class Fact:
    """An event and its index in the history."""

    index: int
    event: Event

    @property
    def at_s(self) -> float:
        return self.event.at_s


@dataclass(slots=True)
class Life:
    """What happened to one request, each list in order."""

    request: str
    invokes: list[Fact] = field(default_factory=list)
    routed: list[Fact] = field(default_factory=list)
    started: list[Fact] = field(default_factory=list)
    tokens: list[Fact] = field(default_factory=list)
    served: list[Fact] = field(default_factory=list)
    ends: list[Fact] = field(default_factory=list)

    @property
    def ingress(self) -> str:
        """Where it came in; empty where that is not in the history."""
        return str(self.invokes[0].event.data["ingress"]) if self.invokes else ""

    @property
    def ids(self) -> tuple[int, ...]:
        """The tokens that the client got, as they came."""
        return tuple(token for fact in self.tokens for token in fact.event.data["ids"])

    @property
    def end(self) -> Fact | None:
        """Its first end."""
        return self.ends[0] if self.ends else None

    @property
    def completed(self) -> bool:
        """Whether it ended well."""
        return bool(self.ends) and self.ends[0].event.what is What.OK

    @property
    def first_token(self) -> Fact | None:
        return next((fact for fact in self.tokens if fact.event.data["ids"]), None)

    @property
    def from_s(self) -> float:
        """When it came in, or is first heard of."""
        return min((fact.at_s for fact in self._all()), default=0.0)

    @property
    def to_s(self) -> float:
        """When it ended, or was last heard of."""
        return max((fact.at_s for fact in self._all()), default=0.0)

    @property
    def nodes(self) -> frozenset[str]:
        """Every node that had a part in it."""
        found = {str(fact.event.data["node"]) for fact in (*self.routed, *self.started)}
        found |= {fact.event.subject for fact in self.served}
        found |= {str(fact.event.data.get("node", "")) for fact in self.ends}
        return frozenset((found | {self.ingress}) - {""})

    def _all(self) -> list[Fact]:
        return [*self.invokes, *self.routed, *self.started, *self.tokens, *self.ends]


_PARTS = {
    What.INVOKE: "invokes",
    What.ROUTED: "routed",
    What.STARTED: "started",
    What.TOKENS: "tokens",
    **dict.fromkeys(ENDS, "ends"),
}


@lru_cache(maxsize=1)
def lives(run: Run) -> Mapping[str, Life]:
    """Every request that the history speaks of, in order of appearance. To be read only."""
    found: dict[str, Life] = {}
    for index, event in enumerate(run.events):
        part = _PARTS.get(event.what)
        if part is not None:
            life = found.setdefault(event.subject, Life(event.subject))
            getattr(life, part).append(Fact(index, event))
        elif event.what is What.SERVED:
            request = str(event.data["request"])
            if request in found:
                found[request].served.append(Fact(index, event))
    return found


def phase_at(run: Run, name: str) -> Fact | None:
    """When the run entered a phase; None where it never did."""
    for index, event in enumerate(run.events):
        if event.what is What.PHASE and event.data["name"] == name:
            return Fact(index, event)
    return None
