"""The members' side of one stream: its frames applied in order, as a set of tags.

A gap never clears what is known: a replica that lacks a delta stays as it is until the missing
delta, or a checkpoint that is not older, has come.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from overlay.errors import ProtocolError
from overlay.gossip.messages import Content
from overlay.gossip.tagset import unpack_tags

TAGS_MAX = 65_536
"""Twice an honest peer's budget; what goes beyond is not taken in."""


@dataclass(slots=True)
class Change:
    """What a frame did to the set."""

    added: list[int] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Replica:
    """One origin's published set in one generation, as of delta ``seq``.

    ``floor`` is the number below which nothing is believed: what was reached before a restart.
    """

    floor: int = 0
    seq: int = 0
    truncated: bool = False
    tags: set[int] = field(default_factory=set)

    @property
    def visible(self) -> bool:
        """Whether the set may be used: it is not older than what was known once."""
        return self.seq >= self.floor

    def takes(self, seq: int, *, checkpoint: bool) -> bool:
        """Whether a frame of this number moves the replica on."""
        return seq > self.seq if checkpoint else seq == self.seq + 1

    def apply(self, seq: int, content: Content, *, checkpoint: bool) -> Change:
        """Applies a frame for which :meth:`takes` holds.

        Returns:
            What changes for who uses the set: everything when it becomes visible.

        Raises:
            ProtocolError: For malformed tags, or a checkpoint that removes some; then nothing has
                changed.
        """
        added, removed = unpack_tags(content.added), unpack_tags(content.removed)
        if checkpoint and removed:
            raise ProtocolError("a checkpoint only adds")
        was_visible = self.visible
        change = self._replace(added) if checkpoint else self._amend(added, removed)
        self.seq = seq
        self.truncated = content.truncated
        if was_visible:
            return change
        return Change(sorted(self.tags), []) if self.visible else Change()

    def _replace(self, tags: list[int]) -> Change:
        before, self.tags = self.tags, set(tags[:TAGS_MAX])
        return Change(sorted(self.tags - before), sorted(before - self.tags))

    def _amend(self, added: list[int], removed: list[int]) -> Change:
        again = set(added)
        gone = [tag for tag in removed if tag in self.tags and tag not in again]
        self.tags.difference_update(gone)
        room = max(0, TAGS_MAX - len(self.tags))
        new = sorted(again - self.tags)[:room]
        self.tags.update(new)
        return Change(new, gone)
