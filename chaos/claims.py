"""False claims of a cache, as filters of an engine's events: standing still, too little, too much.

Each is ``chaos.engine.Claims`` and counts what it has kept back or made up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from random import Random

from inference.events import BlockHash, BlocksEvicted, BlocksStored, CacheEvent
from inference.request import Namespace

CHURN_RUN_BLOCKS = 8
"""Blocks of each made-up prefix."""

CHURN_BLOCKS_MAX = 4096
"""Made up at most between two times that the peer asks."""


class StandStill:
    """Nothing that happens is told."""

    def __init__(self, on_effect: Callable[[], None]) -> None:
        self._on_effect = on_effect

    def __call__(self, events: list[CacheEvent]) -> list[CacheEvent]:
        if events:
            self._on_effect()
        return []


class TooLittle:
    """What is stored is not told; what goes is."""

    def __init__(self, on_effect: Callable[[], None]) -> None:
        self._on_effect = on_effect

    def __call__(self, events: list[CacheEvent]) -> list[CacheEvent]:
        told: list[CacheEvent] = [e for e in events if not isinstance(e, BlocksStored)]
        if len(told) < len(events):
            self._on_effect()
        return told


class TooMuch:
    """Some prompts are said to be cached whole, whatever truly is.

    ``prompts`` gives, for each namespace, the block hashes of whole prompts; it is asked once, when
    the peer first asks what has happened.
    """

    def __init__(
        self,
        prompts: Callable[[], Iterable[tuple[Namespace, Sequence[BlockHash]]]],
        on_effect: Callable[[], None],
    ) -> None:
        self._prompts = prompts
        self._on_effect = on_effect
        self._told = False

    def __call__(self, events: list[CacheEvent]) -> list[CacheEvent]:
        del events
        if self._told:
            return []
        self._told = True
        told: list[CacheEvent] = []
        for namespace, hashes in self._prompts():
            if hashes:
                self._on_effect()
                told.append(
                    BlocksStored(namespace=namespace, parent=None, depth=0, blocks=tuple(hashes))
                )
        return told


class Churn:
    """Besides what truly happens, made-up prefixes come and go without pause."""

    def __init__(
        self,
        *,
        namespaces: Callable[[], Sequence[Namespace]],
        blocks_per_s: float,
        rng: Random,
        now_s: Callable[[], float],
        on_effect: Callable[[int], None],
    ) -> None:
        self._namespaces = namespaces
        self._blocks_per_s = blocks_per_s
        self._rng = rng
        self._now_s = now_s
        self._on_effect = on_effect
        self._at_s = now_s()
        self._made: list[BlocksEvicted] = []

    def __call__(self, events: list[CacheEvent]) -> list[CacheEvent]:
        now_s = self._now_s()
        due = int(min(CHURN_BLOCKS_MAX, (now_s - self._at_s) * self._blocks_per_s))
        namespaces = self._namespaces()
        if due < CHURN_RUN_BLOCKS or not namespaces:
            return events
        self._at_s = now_s
        told: list[CacheEvent] = [*events, *self._made]
        self._made = []
        for _ in range(due // CHURN_RUN_BLOCKS):
            namespace = self._rng.choice(namespaces)
            blocks = tuple(BlockHash(self._rng.randbytes(16)) for _ in range(CHURN_RUN_BLOCKS))
            told.append(BlocksStored(namespace=namespace, parent=None, depth=0, blocks=blocks))
            self._made.append(BlocksEvicted(namespace=namespace, blocks=blocks[::-1]))
        self._on_effect(due // CHURN_RUN_BLOCKS * CHURN_RUN_BLOCKS)
        return told
