"""What an engine's cache truly holds, whatever is said of it: the events of the core itself.

The tap is the innermost part around a core, so that neither a planted bug nor a fault stands
between it and the cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from chaos.core_double import CoreDouble
from inference.core import EngineCore, StepResult
from inference.events import BlockHash, BlocksEvicted, BlocksStored, CacheEvent, Cleared
from inference.request import Namespace


@dataclass(slots=True)
class CacheTruth:
    """Blocks that a host's cache holds, by namespace, and when those that left did so.

    It outlives the host's engines: ``source`` is the core whose events count now.
    """

    now_s: Callable[[], float]
    source: object = None
    _held: dict[Namespace, dict[BlockHash, BlockHash | None]] = field(default_factory=dict)
    """Each block with its parent."""
    _left: dict[Namespace, dict[BlockHash, float]] = field(default_factory=dict)

    def fold(self, events: Sequence[CacheEvent]) -> None:
        """Takes events in, in order."""
        for event in events:
            match event:
                case BlocksStored():
                    held = self._held.setdefault(event.namespace, {})
                    parent = event.parent
                    for block in event.blocks:
                        held[block] = parent
                        parent = block
                case BlocksEvicted():
                    self._drop(event.namespace, event.blocks)
                case Cleared():
                    names = list(self._held) if event.namespace is None else [event.namespace]
                    for namespace in names:
                        self._drop(namespace, tuple(self._held.get(namespace, ())))

    def lose_all(self) -> None:
        """The process is gone, and its cache with it; what is left of it tells nothing more."""
        self.source = None
        self.fold([Cleared()])

    def _drop(self, namespace: Namespace, blocks: Sequence[BlockHash]) -> None:
        held = self._held.setdefault(namespace, {})
        left, now_s = self._left.setdefault(namespace, {}), self.now_s()
        for block in blocks:
            held.pop(block, None)
            left[block] = now_s

    def match(self, namespace: Namespace, hashes: Sequence[BlockHash]) -> int:
        """How many of these chained blocks are held, from the first one on."""
        held = self._held.get(namespace, {})
        count = len(hashes)
        while count and hashes[count - 1] not in held:
            count -= 1
        return count

    def gone_for_s(self, namespace: Namespace, block: BlockHash) -> float | None:
        """How long ago a block was last held: 0 where it is, None where it never was."""
        if block in self._held.get(namespace, {}):
            return 0.0
        left_s = self._left.get(namespace, {}).get(block, math.inf)
        return None if left_s == math.inf else self.now_s() - left_s

    def held(self, namespace: Namespace) -> set[BlockHash]:
        """Every block held."""
        return set(self._held.get(namespace, ()))

    def ends(self, namespace: Namespace) -> set[BlockHash]:
        """Blocks held that none held goes on from."""
        held = self._held.get(namespace, {})
        return set(held).difference(parent for parent in held.values() if parent is not None)


class TruthCore(CoreDouble):
    """An engine core that is listened to. ``on_evicted`` is told of each eviction.

    Events are drained after every step, so that the truth has their times, and kept for the
    worker, which drains them often.
    """

    def __init__(
        self, inner: EngineCore, truth: CacheTruth, on_evicted: Callable[[], None]
    ) -> None:
        super().__init__(inner)
        self._truth = truth
        self._on_evicted = on_evicted
        self._kept: list[CacheEvent] = []
        truth.source = self

    def step(self) -> StepResult:
        result = self.inner.step()
        self._pull()
        return result

    def cache_events(self) -> tuple[CacheEvent, ...]:
        self._pull()
        events, self._kept = tuple(self._kept), []
        return events

    def drop(self, namespace: Namespace) -> None:
        self.inner.drop(namespace)
        self._pull()

    def reset(self) -> None:
        self.inner.reset()
        self._pull()

    def close(self) -> None:
        self.inner.close()
        self._pull()

    def _pull(self) -> None:
        events = self.inner.cache_events()
        if events:
            self._kept += events
            if self._truth.source is not self:
                return
            self._truth.fold(events)
            if any(isinstance(event, BlocksEvicted) for event in events):
                self._on_evicted()
