"""The changes of a picture of a cache, kept until somebody asks for them.

The rule is that of ``inference/cache.py``: when events name more blocks than it would take to tell
the whole content, they are dropped, and the next drain gives ``Cleared`` and the content. Runs that
continue each other become one event, as whoever folds them looks at the ends of runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from inference.cache import EVENT_BLOCKS_MIN
from inference.events import BlockHash, BlocksEvicted, BlocksStored, CacheEvent, Cleared
from inference.request import Namespace


@dataclass(slots=True, kw_only=True)
class _Change:
    """A run that was stored, or blocks that were evicted (``depth`` is None)."""

    namespace: Namespace
    parent: BlockHash | None
    depth: int | None
    blocks: list[BlockHash]

    def event(self) -> CacheEvent:
        blocks = tuple(self.blocks)
        if self.depth is None:
            return BlocksEvicted(namespace=self.namespace, blocks=blocks)
        return BlocksStored(
            namespace=self.namespace, parent=self.parent, depth=self.depth, blocks=blocks
        )


class Journal:
    """Undrained events, in order, bounded.

    Args:
        content: All that is held now, parents first.
        held_blocks: How many blocks that is.
        blocks_min: How many blocks undrained events may name, at least.
    """

    def __init__(
        self,
        content: Callable[[], Iterable[BlocksStored]],
        held_blocks: Callable[[], int],
        *,
        blocks_min: int = EVENT_BLOCKS_MIN,
    ) -> None:
        self._content = content
        self._held_blocks = held_blocks
        self._blocks_min = blocks_min
        self._changes: list[_Change] = []
        self._blocks = 0
        self._cleared = False
        self._lost = False

    def stored(
        self,
        namespace: Namespace,
        parent: BlockHash | None,
        depth: int,
        blocks: Sequence[BlockHash],
    ) -> None:
        """Takes in a run that was stored; call it when the content has it already."""
        last = self._changes[-1] if self._changes else None
        if (
            last is not None
            and last.depth is not None
            and last.namespace == namespace
            and last.blocks[-1] == parent
        ):
            last.blocks.extend(blocks)
            self._bound(len(blocks))
        else:
            self._add(namespace, parent, depth, blocks)

    def evicted(self, namespace: Namespace, blocks: Sequence[BlockHash]) -> None:
        """Takes in what was evicted, last ones first."""
        last = self._changes[-1] if self._changes else None
        if last is not None and last.depth is None and last.namespace == namespace:
            last.blocks.extend(blocks)
            self._bound(len(blocks))
        else:
            self._add(namespace, None, None, blocks)

    def clear(self) -> None:
        """Nothing is held any more, so what was told before does not matter."""
        self._forget()
        self._cleared = True

    def drain(self) -> tuple[CacheEvent, ...]:
        """The changes since the last call."""
        events: list[CacheEvent] = [Cleared()] if self._cleared or self._lost else []
        events += self._content() if self._lost else [each.event() for each in self._changes]
        self._forget()
        return tuple(events)

    def _add(
        self,
        namespace: Namespace,
        parent: BlockHash | None,
        depth: int | None,
        blocks: Sequence[BlockHash],
    ) -> None:
        if not self._lost:
            self._changes.append(
                _Change(namespace=namespace, parent=parent, depth=depth, blocks=list(blocks))
            )
            self._bound(len(blocks))

    def _bound(self, more: int) -> None:
        self._blocks += more
        # The content is counted only when it matters.
        if self._blocks > self._blocks_min and self._blocks > 2 * self._held_blocks():
            self._forget()
            self._lost = True

    def _forget(self) -> None:
        self._changes = []
        self._blocks = 0
        self._cleared = False
        self._lost = False
