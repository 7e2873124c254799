"""Free blocks of a pool, given out so that one request's blocks follow each other.

Neighbouring blocks are read as one run, without copying (``inference/pool.py``), so a request that
grows is given the block after its last one where that is free, and a new one begins with some room
after the one before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

ROOM_BLOCKS = 32
"""Blocks left free after a request's first ones where there is space: 512 tokens to answer in."""

FREE, TAKEN = 1, 0


class FreeList:
    """Which of ``total`` blocks from ``first`` on are free; all of them at first."""

    def __init__(self, total: int, *, first: int = 0) -> None:
        self.count = total
        self._first = first
        self._map = bytearray([FREE]) * total
        self._next = 0

    def blocks(self) -> list[int]:
        """The free blocks' numbers."""
        return [at for at, state in enumerate(self._map, self._first) if state == FREE]

    def give(self, blocks: Iterable[int]) -> None:
        """Takes blocks back."""
        for block in blocks:
            assert self._map[block - self._first] == TAKEN
            self._map[block - self._first] = FREE
            self.count += 1

    def take(self, count: int, *, after: Sequence[int]) -> list[int]:
        """Gives so many blocks out, going on after ``after`` if possible; there must be as many."""
        assert count <= self.count
        taken: list[int] = []
        if after:
            at = after[-1] + 1 - self._first
            self._mark(at, self._length_at(at, count), taken)
        while len(taken) < count:
            at, length = self._gap(count - len(taken))
            self._mark(at, length, taken)
            self._next = at + length + ROOM_BLOCKS
        return taken

    def _mark(self, at: int, length: int, taken: list[int]) -> None:
        self._map[at : at + length] = bytes([TAKEN]) * length
        self.count -= length
        taken.extend(range(self._first + at, self._first + at + length))

    def _length_at(self, at: int, count: int) -> int:
        """How many free blocks follow each other from ``at`` on, at most ``count``."""
        end = self._map.find(TAKEN, at, at + count)
        return max(0, min(at + count, len(self._map)) - at) if end < 0 else end - at

    def _gap(self, count: int) -> tuple[int, int]:
        """Where to begin and how many to take there: room to grow first, then any place."""
        wanted = count + ROOM_BLOCKS
        while wanted:
            pattern = bytes([FREE]) * wanted
            for start in (self._next, 0):
                at = self._map.find(pattern, start)
                if at >= 0:
                    return at, min(wanted, count)
            wanted = count if wanted > count else wanted // 2
        raise AssertionError("as many blocks are free as are taken")
