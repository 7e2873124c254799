"""The published set of one tenant: which prefixes of the cache the other members are told of.

Ends of cached runs and branch points first, then a stride of further points along long runs, under
a budget. A published block means that the whole prefix up to it is cached.
"""

from __future__ import annotations

from inference.events import BlockHash

STRIDE_BLOCKS = 8
"""Every so many blocks along a run (128 tokens): a prompt that leaves a run half way is found then,
before a second one like it has made a branch point there. One block in eight of a run is told."""

BUDGET = 32_768
"""Published blocks per tenant: 192 KiB in a checkpoint, which must fit one message."""


class Digest:
    """What is published, and what has changed since it was last taken.

    ``truncated`` says that the budget left something out.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        self._budget = budget
        # Ordered, so that what goes on the wire does not depend on hashing.
        self._ends: dict[BlockHash, None] = {}
        self._strides: dict[BlockHash, None] = {}
        self._waiting_ends: dict[BlockHash, None] = {}
        self._waiting_strides: dict[BlockHash, None] = {}
        self._added: dict[BlockHash, None] = {}
        self._removed: dict[BlockHash, None] = {}

    def __len__(self) -> int:
        return len(self._ends) + len(self._strides)

    def __contains__(self, block: BlockHash) -> bool:
        return block in self._ends or block in self._strides

    @property
    def truncated(self) -> bool:
        return bool(self._waiting_ends or self._waiting_strides)

    def blocks(self) -> list[BlockHash]:
        """Everything that is published."""
        return [*self._ends, *self._strides]

    def publish(self, block: BlockHash, *, end: bool) -> None:
        """Wants a block published, as an end (or branch point) or as a stride."""
        if block in self:
            self._ends.pop(block, None)
            self._strides.pop(block, None)
        elif len(self) >= self._budget and not (end and self._make_room()):
            self._forget_waiting(block)
            (self._waiting_ends if end else self._waiting_strides)[block] = None
            return
        else:
            self._note_added(block)
        self._forget_waiting(block)
        (self._ends if end else self._strides)[block] = None
        if not end and self._waiting_ends:
            self.publish(next(iter(self._waiting_ends)), end=True)

    def withdraw(self, block: BlockHash) -> None:
        """Wants a block not published; one that is not is passed over."""
        self._forget_waiting(block)
        if block not in self:
            return
        self._drop(block)
        if self._waiting_ends:
            self.publish(next(iter(self._waiting_ends)), end=True)
        elif self._waiting_strides:
            self.publish(next(iter(self._waiting_strides)), end=False)

    def take_changes(self) -> tuple[list[BlockHash], list[BlockHash]]:
        """What was added and removed since the last call."""
        added, removed = list(self._added), list(self._removed)
        self._added.clear()
        self._removed.clear()
        return added, removed

    def _make_room(self) -> bool:
        if not self._strides:
            return False
        victim = next(iter(self._strides))
        self._drop(victim)
        self._waiting_strides[victim] = None
        return True

    def _forget_waiting(self, block: BlockHash) -> None:
        if self.truncated:
            self._waiting_ends.pop(block, None)
            self._waiting_strides.pop(block, None)

    def _drop(self, block: BlockHash) -> None:
        self._ends.pop(block, None)
        self._strides.pop(block, None)
        if block in self._added:
            del self._added[block]
        else:
            self._removed[block] = None

    def _note_added(self, block: BlockHash) -> None:
        if block in self._removed:
            del self._removed[block]
        else:
            self._added[block] = None
