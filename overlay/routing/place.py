"""Which part of a prompt names its place on the ring.

A key that is too short sends everybody to one home (all prompts of a service begin alike); one
that is too deep is different for every prompt. So the key is the shallowest of a few fixed depths
at which the prefix is *not* shared by most of the recent requests. Routers that see the same
traffic come to the same depth, each from its own sample.

How common a prefix is, is counted per depth with the Misra-Gries sketch (1982): a few counters find
every prefix above a given share, in constant memory, whatever a client sends.
"""

from __future__ import annotations

from collections.abc import Sequence

DEPTHS_BLOCKS = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Depths that are looked at, in blocks of 16 tokens."""

COMMON_SHARE = 0.5
"""A prefix that at least this share of the requests begin with names no place."""

COUNTERS = 8
WINDOW = 256
"""Requests after which counts are halved, so that old traffic is forgotten."""

UNSURE_BELOW = 16
"""With fewer requests than this nothing is called common."""


class Places:
    """A router's sketch of which prefixes are common; one for each tenant and model."""

    def __init__(self) -> None:
        self._depths = [_Common() for _ in DEPTHS_BLOCKS]

    def observe(self, hashes: Sequence[bytes]) -> None:
        """Counts a request by the chain hashes (or tags) of its full blocks."""
        for depth, common in zip(DEPTHS_BLOCKS, self._depths, strict=True):
            if depth > len(hashes):
                return
            common.add(hashes[depth - 1])

    def key(self, hashes: Sequence[bytes]) -> bytes:
        """The place key of a prompt; empty when it has no full block."""
        if not hashes:
            return b""
        for depth, common in zip(DEPTHS_BLOCKS, self._depths, strict=True):
            if depth > len(hashes):
                break
            if not common.holds(hashes[depth - 1]):
                return hashes[depth - 1]
        return hashes[-1]


class _Common:
    """Prefixes of one depth that make up a large share of the requests."""

    __slots__ = ("_counts", "_total")

    def __init__(self) -> None:
        self._counts: dict[bytes, int] = {}
        self._total = 0

    def add(self, prefix: bytes) -> None:
        self._total += 1
        counts = self._counts
        if prefix in counts or len(counts) < COUNTERS:
            counts[prefix] = counts.get(prefix, 0) + 1
        else:
            self._counts = {each: count - 1 for each, count in counts.items() if count > 1}
        if self._total >= WINDOW:
            self._total //= 2
            self._counts = {each: count // 2 for each, count in self._counts.items() if count > 1}

    def holds(self, prefix: bytes) -> bool:
        """Whether ``prefix`` is common. Its count is low by at most a ninth of the total."""
        count = self._counts.get(prefix, 0)
        return self._total >= UNSURE_BELOW and count >= COMMON_SHARE * self._total
