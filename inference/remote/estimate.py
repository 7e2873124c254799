"""What a server that tells no cache events probably has cached, from what it was sent.

Rules:

1. A prompt that was answered is cached: the server has just computed all of it. Its blocks count
   from the first token on.
2. Least recently used blocks go first, the last ones of a chain before those they follow, when
   there are more than the capacity. What nobody sent for ``confirm_s`` is not claimed any more.
3. A request that found less than expected proves what followed the first missing block gone, other
   prompts' blocks included; and the capacity smaller than was thought.
4. One that found more, while the picture was full, proves the capacity larger; it grows slowly and
   to a few times the first guess at most. A claim too many costs a peer a prefill that it did not
   plan for, a claim too few only a detour.

What a request found is reported by the server or told by its time to the first token
(``evidence.py``). The answer's own tokens are cached as well, but come as part of the next prompt.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from inference.events import BlockHash, CacheEvent
from inference.remote.cache_picture import Outcome
from inference.remote.evidence import Evidence, Seen
from inference.remote.held import HeldForest
from inference.request import BLOCK_TOKENS, Namespace

CONFIRM_S = 900.0
"""A quarter of an hour: other users of the server, unseen here, will have had their turn."""
SHRINK_PART = 8
"""At most one part in so many of the capacity goes with one proof."""
GROW_PART = 64
GROW_TIMES = 4
"""The capacity grows to so many times the first guess at most."""
CAPACITY_MIN = 64


class Estimate:
    """The picture of a server that tells nothing by itself; sans I/O.

    Args:
        capacity_blocks: A guess of how many 16-token blocks the server can keep.
        block_tokens: The server's own block size, where that is known.
        confirm_s: How long a block is claimed after it was last sent.
    """

    def __init__(
        self,
        *,
        capacity_blocks: int,
        block_tokens: int = BLOCK_TOKENS,
        confirm_s: float = CONFIRM_S,
    ) -> None:
        self.capacity_blocks = max(CAPACITY_MIN, capacity_blocks)
        self._capacity_max = GROW_TIMES * self.capacity_blocks
        self._confirm_s = confirm_s
        self._forest = HeldForest(self.__len__)
        # Every block stands before the one that it follows, as whoever uses it uses that one too.
        self._used_s: OrderedDict[tuple[Namespace, BlockHash], float] = OrderedDict()
        self._evidence = Evidence(block_tokens)
        self._missing = 0

    def __len__(self) -> int:
        return len(self._used_s)

    @property
    def exact(self) -> bool:
        return False

    def learn(self, namespace: Namespace, chain_key: bytes, salt: str | None) -> None:
        """Nothing to do: blocks come here by name."""

    def match(self, namespace: Namespace, hashes: Sequence[BlockHash]) -> int:
        return self._forest.match(namespace, hashes)

    def started(
        self, request_id: str, namespace: Namespace, hashes: Sequence[BlockHash], now_s: float
    ) -> int:
        self.tick(now_s)
        expected = self.match(namespace, hashes)
        self._evidence.started(request_id, namespace, hashes, expected)
        return expected

    def prefilled(self, request_id: str, now_s: float) -> None:
        running = self._evidence.running(request_id)
        if running is not None:
            self._place(running, now_s)

    def finished(self, request_id: str, outcome: Outcome, now_s: float) -> None:
        self.tick(now_s)
        seen = self._evidence.finished(request_id, outcome)
        if seen is None:
            return
        if seen.found is not None:
            self._learn_from(seen, seen.found)
        self._place(seen, now_s)

    def tick(self, now_s: float) -> None:
        while self._used_s:
            (namespace, block), used_s = next(iter(self._used_s.items()))
            if now_s - used_s < self._confirm_s:
                return
            self._evict(namespace, [block])

    def drop(self, namespace: Namespace) -> None:
        self._evict(namespace, [block for space, block in self._used_s if space == namespace])

    def cleared(self) -> None:
        self._evidence.void()
        self._used_s.clear()
        self._forest.clear()

    def drain(self) -> tuple[CacheEvent, ...]:
        return self._forest.journal.drain()

    def posture(self) -> list[tuple[str, str]]:
        size = f"{len(self)} of about {self.capacity_blocks} blocks of 16 tokens"
        lines = [
            ("cache", f"{size}, estimated from what was sent"),
            *self._evidence.posture(),
        ]
        if self._missing:
            lines.append(("blocks that were not there", str(self._missing)))
        return lines

    def _learn_from(self, seen: Seen, found: int) -> None:
        full = len(self) >= self.capacity_blocks
        if found < seen.expected:
            self._disprove(seen, found)
        elif found > seen.expected and full:
            grown = self.capacity_blocks + max(1, self.capacity_blocks // GROW_PART)
            self.capacity_blocks = min(self._capacity_max, grown)

    def _disprove(self, seen: Seen, found: int) -> None:
        """The block after those found was not there, nor was anything that follows it."""
        tree = self._forest.tree(seen.namespace)
        first = seen.hashes[found]
        if first not in tree:
            return
        own = set(seen.hashes)  # computed now, and so not gone
        gone = [block for block in reversed(tree.below(first)) if block not in own]
        self._missing += seen.expected - found
        self._evict(seen.namespace, gone)
        least = self.capacity_blocks - self.capacity_blocks // SHRINK_PART
        self.capacity_blocks = max(CAPACITY_MIN, least, min(self.capacity_blocks, len(self)))

    def _place(self, seen: Seen, now_s: float) -> None:
        """All of a prompt's blocks are cached and were used just now."""
        blocks = seen.hashes[: self.capacity_blocks]
        if not blocks:
            return
        tree = self._forest.tree(seen.namespace)
        known = tree.match(blocks)
        fresh = len(blocks) - known
        for block in reversed(blocks):
            self._used_s[seen.namespace, block] = now_s
            self._used_s.move_to_end((seen.namespace, block))
        while len(self._used_s) > self.capacity_blocks:
            namespace, block = next(iter(self._used_s))
            self._evict(namespace, [block])
        if fresh:
            tree.add(blocks[known - 1] if known else None, known, blocks[known:])

    def _evict(self, namespace: Namespace, blocks: Sequence[BlockHash]) -> None:
        """Takes blocks out, each before the one that it follows."""
        for block in blocks:
            del self._used_s[namespace, block]
        self._forest.tree(namespace).drop(blocks)
