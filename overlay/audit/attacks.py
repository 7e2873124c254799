"""What one tenant of a host can learn of another by the time to its own first token.

Each attack has two cases, which come in pairs of random order, so that whatever else the machine
does falls on both alike. What is measured is the attacker's time to first token in seconds.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import trio

VICTIM, ATTACKER = "victim", "attacker"

WORDS = (
    *("time", "year", "people", "way", "day", "man", "thing", "woman", "life"),
    *("child", "world", "school", "state", "family", "student", "group", "country"),
    *("problem", "hand", "part", "place", "case", "week", "company", "system"),
    *("question", "work", "government", "number", "night", "point", "home", "water"),
    *("room", "mother", "area", "money", "story", "fact", "month", "lot", "study"),
    *("book", "eye", "job", "word", "business", "issue", "side", "kind", "head"),
    *("house", "service", "friend", "father", "power", "hour", "game", "line", "end"),
    *("member", "law", "car", "city", "name"),
)
"""Each is one token of the demo's model."""

SENT_WORDS = 96
"""A guessed prompt: five blocks and an end that is always computed."""

KEPT_WORDS = 232
"""The attacker's own prompt, which the victim may evict: 14 blocks and an end."""

SMALL_WORDS = 40
"""What the victim sends then, known (2 blocks and an end) or new."""

LONG_WORDS = 264
"""What the attacker's request runs beside: two prefill chunks, so that a hit spares a step."""

BESIDE_WORDS = 16
BESIDE_S = 0.1
"""The attacker's request comes at most so long after the victim's."""

SETTLE_S = 0.05
"""Pause after two requests that ran beside each other."""

EVICTION_CACHE = {"shared": "12MiB", "strict": "48MiB"}
"""``--kv-cache``: 17 blocks, one more than both keep; 68, of which each tenant has 34."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a client saw of one request: seconds to the first token, tokens found in the cache."""

    ttft_s: float
    cached_tokens: int


class Ask(Protocol):
    """Asks as a tenant and waits for one token. Raises OverlayError when there is none."""

    def __call__(self, tenant: str, prompt: str) -> Awaitable[Probe]: ...


@dataclass(slots=True)
class Measured:
    """Seconds of both cases of one attack, and how often each found its prompt in the cache.

    ``above`` is the case in which a leak would make the attacker wait longer.
    """

    below: list[float] = field(default_factory=list)
    above: list[float] = field(default_factory=list)
    cached_below: int = 0
    cached_above: int = 0

    def add(self, probe: Probe, *, above: bool) -> None:
        if above:
            self.above.append(probe.ttft_s)
            self.cached_above += probe.cached_tokens
        else:
            self.below.append(probe.ttft_s)
            self.cached_below += probe.cached_tokens


OnSample = Callable[[], None]


class Attacker:
    """The attacks on one peer.

    Args:
        ask: How tenants ask.
        seed: Orders, prompts and moments follow from it.
        on_sample: Called after each sample.
    """

    def __init__(self, ask: Ask, *, seed: int, on_sample: OnSample) -> None:
        self._ask = ask
        self._random = random.Random(seed)
        self._on_sample = on_sample

    async def guesses(self, samples: int) -> tuple[Measured, Measured]:
        """Guesses whether the victim has sent a prompt: as its own tenant, and as another one."""
        within, across = Measured(), Measured()
        for unsent in self._cases(samples):
            guess = self._prompt(SENT_WORDS)
            await self._ask(VICTIM, self._prompt(SENT_WORDS) if unsent else guess)
            across.add(await self._ask(ATTACKER, guess), above=unsent)
            within.add(await self._ask(VICTIM, guess), above=unsent)
            self._on_sample()
        return within, across

    async def eviction(self, samples: int) -> Measured:
        """Finds out by its own cached prompt whether the victim sent something new."""
        measured = Measured()
        mine, known = self._prompt(KEPT_WORDS), self._prompt(SMALL_WORDS)
        await self._ask(ATTACKER, mine)
        for fresh in self._cases(samples):
            await self._ask(VICTIM, known)
            await self._ask(VICTIM, self._prompt(SMALL_WORDS) if fresh else known)
            measured.add(await self._ask(ATTACKER, mine), above=fresh)
            self._on_sample()
        return measured

    async def load(self, samples: int) -> Measured:
        """Finds out beside the victim's request whether that one was in the victim's cache."""
        measured = Measured()
        known = self._prompt(LONG_WORDS)
        await self._ask(VICTIM, known)
        for fresh in self._cases(samples):
            theirs = self._prompt(LONG_WORDS) if fresh else known
            after_s = self._random.uniform(0, BESIDE_S)
            measured.add(await self._beside(theirs, after_s), above=fresh)
            self._on_sample()
        return measured

    async def _beside(self, theirs: str, after_s: float) -> Probe:
        probes: list[Probe] = []

        async def victim() -> None:
            await self._ask(VICTIM, theirs)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(victim)
            await trio.sleep(after_s)
            probes.append(await self._ask(ATTACKER, self._prompt(BESIDE_WORDS)))
        await trio.sleep(SETTLE_S)
        return probes[0]

    def _cases(self, samples: int) -> Iterator[bool]:
        """Each case so often, in pairs of random order."""
        for _ in range(samples):
            first = self._random.random() < 1 / 2
            yield first
            yield not first

    def _prompt(self, words: int) -> str:
        return " ".join(self._random.choices(WORDS, k=words))
