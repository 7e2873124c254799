"""The facts of a run by their kind, and the life of each request, gathered from its history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import chain
from operator import attrgetter
from typing import Any

import msgspec

from chaos.history import Event, What
from chaos.pieces import Said, is_carried, piece_of
from chaos.run import Run

ENDS = (What.OK, What.FAIL, What.CANCELLED, What.INFO)
"""Events that end a request; the outcome of the last one is unknown."""


class Fact(msgspec.Struct, frozen=True, gc=False):
    """An event and its index in the history."""

    index: int
    event: Event

    @property
    def at_s(self) -> float:
        return self.event.at_s


@dataclass
class Life:
    """What happened to one request, each list in order.

    What follows from them is asked for by several checkers, and worked out once.
    """

    request: str
    invokes: list[Fact] = field(default_factory=list)
    routed: list[Fact] = field(default_factory=list)
    started: list[Fact] = field(default_factory=list)
    tokens: list[Fact] = field(default_factory=list)
    served: list[Fact] = field(default_factory=list)
    said: list[Fact] = field(default_factory=list)
    ends: list[Fact] = field(default_factory=list)

    @property
    def ingress(self) -> str:
        """Where it came in; empty where that is not in the history."""
        return str(self.invokes[0].event.data["ingress"]) if self.invokes else ""

    @cached_property
    def ids(self) -> tuple[int, ...]:
        """The tokens that the client got, as they came."""
        return tuple(token for fact in self.tokens for token in fact.event.data["ids"])

    @cached_property
    def text(self) -> str | None:
        """What the client got as text; None where that is not in the history."""
        if not any("text" in fact.event.data for fact in self.tokens):
            return None
        return "".join(fact.event.data["text"] for fact in self.tokens)

    @cached_property
    def blind(self) -> bool:
        """Whether it got a piece of which no token ids were told."""
        return any(fact.event.data.get("blind") for fact in self.tokens)

    @cached_property
    def is_carried(self) -> bool | None:
        """Whether it got just what engines said; None where that is not in the history."""
        if not self.said:
            return None
        facts = [
            fact.event.data for fact in sorted(self.said, key=lambda f: f.event.data["from_s"])
        ]
        said = [Said(tuple(data["pieces"]), data["whole"]) for data in facts]
        got = [_piece(fact.event.data) for fact in self.tokens]
        return is_carried([piece for piece in got if piece], said, complete=self.completed)

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
        said = (
            fact for fact in self.tokens if fact.event.data["ids"] or fact.event.data.get("text")
        )
        return next(said, None)

    @cached_property
    def from_s(self) -> float:
        """When it came in, or is first heard of."""
        return min((fact.at_s for fact in self._all()), default=0.0)

    @cached_property
    def to_s(self) -> float:
        """When it ended, or was last heard of."""
        return max((fact.at_s for fact in self._all()), default=0.0)

    @cached_property
    def nodes(self) -> frozenset[str]:
        """Every node that had a part in it."""
        found = {str(fact.event.data["node"]) for fact in (*self.routed, *self.started)}
        found |= {fact.event.subject for fact in self.served}
        found |= {str(fact.event.data.get("node", "")) for fact in self.ends}
        return frozenset((found | {self.ingress}) - {""})

    def _all(self) -> list[Fact]:
        return [*self.invokes, *self.routed, *self.started, *self.tokens, *self.ends]


def _piece(data: Mapping[str, Any]) -> str:  # of a TOKENS
    found: str = data["piece"] if "piece" in data else piece_of(data["ids"], "", None)
    return found


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
    for fact in facts(run, *_PARTS, What.SERVED, What.SAID):
        event = fact.event
        if event.what in {What.SERVED, What.SAID}:
            request = str(event.data["request"])
            if request in found:
                here = found[request].served if event.what is What.SERVED else found[request].said
                here.append(fact)
            continue
        life = found.get(event.subject)
        if life is None:
            life = found[event.subject] = Life(event.subject)
        getattr(life, _PARTS[event.what]).append(fact)
    return found


def facts(run: Run, *kinds: What) -> Sequence[Fact]:
    """The facts of some kinds, in order. To be read only."""
    by_kind = _by_kind(run)
    found = [by_kind[kind] for kind in kinds if kind in by_kind]
    if len(found) == 1:
        return found[0]
    return sorted(chain(*found), key=attrgetter("index"))


@lru_cache(maxsize=1)
def _by_kind(run: Run) -> Mapping[What, list[Fact]]:
    found: dict[What, list[Fact]] = {}
    for index, event in enumerate(run.events):
        of_kind = found.get(event.what)
        if of_kind is None:
            of_kind = found[event.what] = []
        of_kind.append(Fact(index, event))
    return found


def phase_at(run: Run, name: str) -> Fact | None:
    """When the run entered a phase; None where it never did."""
    return next((fact for fact in facts(run, What.PHASE) if fact.event.data["name"] == name), None)
