"""In which order the batches of one rank count, and what to do about those that are missing.

A server numbers its batches from 0 and keeps the newest ones for replay. Rules:

1. Each batch is folded once, in order. What was heard before is dropped.
2. At the start, and when a number was left out, the missing ones are asked for. The live batches
   wait meanwhile in the socket, which is bounded: what it loses is the next gap.
3. Every replay starts with the batch that was folded last, if there is one. Is it another one, or
   has the server none so far, then the server was started anew: nothing of before is true, the rank
   is cleared, and all is asked for from 0.
4. So it is when a live number comes again with other content.
5. What a replay does not have any more, or no replay gave, is lost: what is known stays, and the
   picture is not exact until the server clears its cache or is started anew. Where the replay only
   did not answer, all is asked for again once it does.
6. A replay that breaks off, or leaves some out on its way (a full queue drops), is asked for again
   from there as long as that gets further.
7. When nothing is heard for a while the last batch is asked for again: publishing may lose the
   newest batches without a later one that shows it, as before a subscription stands.

A new server whose first heard number happens to be the next one cannot be told by numbers: whoever
knows of the restart from elsewhere calls ``restart``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

RECENT_MAX = 1024
"""Batches whose content is remembered as a digest, to tell a repeated one from another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """Fold this batch into the picture."""

    seq: int
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Clear:
    """Forget all that this rank told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskReplay:
    """Ask for the batches from this number on, and hand in what comes until the replay ends."""

    start: int


Step = Fold | Clear | AskReplay


class RankSequence:
    """What one rank's numbers say; sans I/O. Every method returns what to do, in order.

    After :class:`AskReplay` (always the last step), hand in what comes by ``on_replayed`` and then
    ``on_replay_end``, before anything else.

    Args:
        replays: Whether the server can be asked.
    """

    def __init__(self, *, replays: bool) -> None:
        self.lost = 0
        self.restarts = 0
        self._replays = replays
        self._has_replayed = False
        self._asked: int | None = None
        self._pending: Fold | None = None
        self._recent: dict[int, bytes] = {}
        # Of the replay that was asked for: the last folded batch was not seen in it so far, another
        # one was in its place, some were left out, some could be folded.
        self._unproven = self._other = self._hole = self._moved = False
        self._repairable = False
        self._reset()

    @property
    def exact(self) -> bool:
        """Whether everything that the server told was folded, as far as can be known."""
        return self._begun and self._whole

    def start(self) -> list[Step]:
        """Asks for what was told before this moment."""
        return self._ask() if self._replays else []

    def restart(self) -> list[Step]:
        """The server was started anew, or the picture was emptied: all is asked for again."""
        self.restarts += 1
        self._reset()
        return [Clear(), *self.start()]

    def spoil(self) -> None:
        """A batch could not be read, so that what it told is missed."""
        self.lost += 1
        self._whole = False

    def settle(self) -> None:
        """The server has cleared its cache: what was missed before does not matter any more."""
        self._begun = self._whole = True
        self._repairable = False

    def on_live(self, seq: int, payload: bytes) -> list[Step]:
        """A batch that was published."""
        assert self._asked is None, "live batches wait for the end of a replay"
        if seq < self._next:
            return self._again(seq, payload)
        self._heard = seq
        if seq == self._next and (self._begun or seq == 0):
            return [self._fold(seq, payload)]
        if self._replays:
            self._pending = Fold(seq=seq, payload=payload)
            return self._ask()
        return [self._fold(seq, payload)]

    def on_replayed(self, seq: int, payload: bytes) -> list[Step]:
        """A batch of the answer to :class:`AskReplay`."""
        if self._asked is None or seq < self._asked:
            return []
        self._has_replayed = True
        if self._unproven:
            self._unproven = False
            if seq == self._asked:
                self._other = self._recent.get(seq, b"") != _digest(payload)
            else:
                self._whole = False  # what comes may be another server's
        if self._other or self._hole or seq < self._next:
            return []
        if seq > self._next and self._moved:
            self._hole = True
            return []
        self._moved = True
        return [self._fold(seq, payload)]

    def on_replay_end(self, *, complete: bool) -> list[Step]:
        """The answer has ended; ``complete`` is False where its end did not come in time."""
        assert self._asked is not None
        self._asked = None
        if self._moved and (self._hole or not complete):
            return self._ask()
        if self._other or (complete and self._unproven and self._has_replayed):
            return self.restart()
        pending, self._pending = self._pending, None
        if complete:
            if self._repairable:
                self._reset()
                return [Clear(), *self.start()]
            self._begun = True
        if pending is None or pending.seq < self._next:
            return []
        self._repairable = self._repairable or (not complete and pending.seq > self._next)
        return [self._fold(pending.seq, pending.payload)]

    def on_idle(self) -> list[Step]:
        """Nothing was heard for a while."""
        return self._ask() if self._replays else []

    def _reset(self) -> None:
        self._next = 0
        self._heard = -1
        self._begun = False
        self._whole = True
        self._repairable = False
        self._asked = None
        self._pending = None
        self._recent = {}

    def _ask(self) -> list[Step]:
        start = self._asked = max(0, self._next - 1)
        self._unproven = self._next > 0
        self._other = self._hole = self._moved = False
        return [AskReplay(start=start)]

    def _again(self, seq: int, payload: bytes) -> list[Step]:
        """A number that was folded before: the same batch, or that of a new server."""
        known = self._recent.get(seq)
        late = known is None and seq > self._heard
        self._heard = max(self._heard, seq)
        if late or known == _digest(payload):
            return []
        steps = self.restart()
        if self._replays:
            self._pending = Fold(seq=seq, payload=payload)
            return steps
        self._heard = seq
        return [*steps, self._fold(seq, payload)]

    def _fold(self, seq: int, payload: bytes) -> Fold:
        if seq > self._next:
            self.lost += seq - self._next
            self._whole = False
        self._begun = True
        self._next = seq + 1
        self._recent[seq] = _digest(payload)
        if len(self._recent) > RECENT_MAX:
            del self._recent[next(iter(self._recent))]
        return Fold(seq=seq, payload=payload)


def _digest(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=8).digest()
