"""Cache events of a server that are lost for a while, and what is believed of its cache since.

As ``inference/remote/events`` has it: what is known stays, what comes later is folded into it, and
a block whose parent was never told is nobody's. The gap is noticed with the first event after it.
From then on the picture is not exact, and a request that finds less than was thought proves the
rest wrong. Only a server that clears its cache, or is started anew, makes it exact again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from inference.events import BlockHash, BlocksEvicted, BlocksStored, CacheEvent, Cleared
from inference.request import Namespace

Held = dict[BlockHash, BlockHash | None]
"""Blocks with their parents, parents first."""


class EventGap:
    """``chaos.engine.Claims`` that lose everything for ``gap_s`` after they are first asked.

    Args:
        gap_s: How long, in seconds.
        contents: What the cache holds when it is first asked.
        now_s: The time.
        on_effect: Called for each event that is lost.
    """

    def __init__(
        self,
        gap_s: float,
        contents: Callable[[], Iterable[BlocksStored]],
        now_s: Callable[[], float],
        on_effect: Callable[[], None],
    ) -> None:
        self._gap_s = gap_s
        self._contents = contents
        self._now_s = now_s
        self._on_effect = on_effect
        self._ends_s: float | None = None
        self._lost = False
        self._held: dict[Namespace, Held] = {}
        self._disproved: list[CacheEvent] = []
        self.noticed = False

    def __call__(self, events: list[CacheEvent]) -> list[CacheEvent]:
        if self._ends_s is None:
            self._ends_s = self._now_s() + self._gap_s
            for run in self._contents():
                self._store(run)
            return events
        if self._now_s() < self._ends_s:
            for _ in events:
                self._lost = True
                self._on_effect()
            return []
        told, self._disproved = self._disproved, []
        for event in events:
            self.noticed = self.noticed or self._lost
            told += self._folded(event)
        return told

    def found(self, namespace: Namespace, hashes: Sequence[BlockHash], blocks: int) -> None:
        """A request found so many of its blocks in the cache, from the first one on."""
        held = self._held.get(namespace, {})
        if blocks < len(hashes) and hashes[blocks] in held:
            self._disproved += self._evicted(namespace, hashes[blocks : blocks + 1])

    def _folded(self, event: CacheEvent) -> list[CacheEvent]:
        """What an event says of what is known."""
        match event:
            case BlocksStored():
                return self._store(event)
            case BlocksEvicted():
                return self._evicted(event.namespace, event.blocks)
            case Cleared():
                for namespace in list(self._held):
                    if event.namespace in {None, namespace}:
                        del self._held[namespace]
                if event.namespace is None:
                    self._lost = self.noticed = False
                return [event]

    def _store(self, event: BlocksStored) -> list[CacheEvent]:
        held = self._held.setdefault(event.namespace, {})
        if event.parent is not None and event.parent not in held:
            return []
        fresh = [number for number, block in enumerate(event.blocks) if block not in held]
        parent = event.parent
        for block in event.blocks:
            held.setdefault(block, parent)
            parent = block
        if not fresh:
            return []
        first = fresh[0]
        above = event.blocks[first - 1] if first else event.parent
        return [
            BlocksStored(
                namespace=event.namespace,
                parent=above,
                depth=event.depth + first,
                blocks=event.blocks[first:],
            )
        ]

    def _evicted(self, namespace: Namespace, blocks: Iterable[BlockHash]) -> list[CacheEvent]:
        """These go, and what stands on them, which goes first."""
        held = self._held.get(namespace, {})
        gone = {block: None for block in blocks if block in held}
        for block, parent in held.items():
            if parent in gone:
                gone[block] = None
        if not gone:
            return []
        # Parents were stored before what stands on them.
        order = [block for block in held if block in gone]
        for block in order:
            del held[block]
        return [BlocksEvicted(namespace=namespace, blocks=tuple(reversed(order)))]
