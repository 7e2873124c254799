"""A picture of a cache that believes that every prompt that was answered is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from inference.events import BlockHash, BlocksStored, CacheEvent, Cleared
from inference.remote.cache_picture import Outcome
from inference.request import Namespace


@dataclass(eq=False)
class FakePicture:
    """Keeps all, and all that it was told."""

    exact: bool = False
    told: list[tuple[str, object]] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    held: dict[BlockHash, None] = field(default_factory=dict)
    events: list[CacheEvent] = field(default_factory=list)
    flights: dict[str, tuple[Namespace, tuple[BlockHash, ...]]] = field(default_factory=dict)

    def learn(self, namespace: Namespace, chain_key: bytes, salt: str | None) -> None:
        self.told.append(("learn", (namespace, chain_key, salt)))

    def match(self, namespace: Namespace, hashes: Sequence[BlockHash]) -> int:
        del namespace
        count = 0
        while count < len(hashes) and hashes[count] in self.held:
            count += 1
        return count

    def started(
        self, request_id: str, namespace: Namespace, hashes: Sequence[BlockHash], now_s: float
    ) -> int:
        del now_s
        self.told.append(("started", request_id))
        self.flights[request_id] = (namespace, tuple(hashes))
        return self.match(namespace, hashes)

    def prefilled(self, request_id: str, now_s: float) -> None:
        del now_s
        self.told.append(("prefilled", request_id))
        namespace, hashes = self.flights[request_id]
        known = self.match(namespace, hashes)
        if fresh := hashes[known:]:
            parent = hashes[known - 1] if known else None
            self.events.append(
                BlocksStored(namespace=namespace, parent=parent, depth=known, blocks=fresh)
            )
            self.held.update(dict.fromkeys(fresh))

    def finished(self, request_id: str, outcome: Outcome, now_s: float) -> None:
        del now_s
        self.told.append(("finished", request_id))
        self.outcomes.append(outcome)
        self.flights.pop(request_id, None)

    def tick(self, now_s: float) -> None:
        self.told.append(("tick", now_s))

    def drop(self, namespace: Namespace) -> None:
        self.told.append(("drop", namespace))

    def cleared(self) -> None:
        self.told.append(("cleared", None))
        self.held.clear()
        self.events = [Cleared()]

    def drain(self) -> tuple[CacheEvent, ...]:
        events, self.events = tuple(self.events), []
        return events

    def posture(self) -> list[tuple[str, str]]:
        return [("cache", "as the test believes")]
