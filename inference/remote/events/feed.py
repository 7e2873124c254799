"""Follows the events that a server publishes over ZeroMQ, and folds them into a mirror.

One task a rank, each with a SUB socket; missing batches are asked for with a DEALER that lives for
one question, so that a late answer is never taken for another's. What to fold and what to ask is
``sequence.py``'s business. A ZeroMQ socket's descriptor is readable when *something* has changed
and then not again, so it is waited for only after a read without waiting has found nothing.
Sockets reconnect by themselves; a flood of events gives way to other tasks every few blocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace

import trio
import zmq

from inference.remote.events.endpoints import EndpointUnusable, EventSource, to_connect
from inference.remote.events.frames import (
    END_OF_REPLAY,
    PAYLOAD_BYTES_MAX,
    AllCleared,
    MalformedFrame,
    decode,
    pieces,
    split,
)
from inference.remote.events.mirror import Mirror
from inference.remote.events.sequence import AskReplay, Clear, Fold, RankSequence, Step

PIECE_BLOCKS = 128
"""Server's blocks that are folded before other tasks run: one or two milliseconds."""
LIVE_BATCHES_MAX = 10_000
"""Batches that a SUB socket keeps while we are busy; as many as vLLM keeps for replay."""
REPLAY_BATCHES_MAX = 100_000
"""Of one answer: the most that vLLM lets wait for a subscriber."""
_UNREADABLE = "messages that could not be read"

Socket = zmq.Socket[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedSettings:
    """Where a server's events come from.

    Args:
        sources: The publishers, in the order of their ranks.
        replay_wait_s: How long to wait for each batch of an answer. vLLM answers between two of
            its own batches, within 0.1 s.
        idle_s: After so long without a batch, the last one is asked for; see ``sequence.py``.
        settle_s: The same, once at the start: a subscription takes a moment to reach the server,
            and what is published between the first replay and then comes to nobody.
    """

    sources: Sequence[EventSource]
    replay_wait_s: float = 2.0
    idle_s: float = 10.0
    settle_s: float = 1.0


@dataclass(slots=True)
class _Rank:
    number: int
    source: EventSource
    sequence: RankSequence
    clears: int
    batches: int = 0
    replay_answered: bool | None = None


class EventFeed:
    """The way from a server's sockets to a :class:`Mirror`.

    Args:
        mirror: Made for as many ranks as there are sources in the settings.
        settings: Where the events come from.
        context: For ``inproc`` endpoints, which are of one context; default: one of its own.
    """

    def __init__(
        self,
        mirror: Mirror,
        settings: FeedSettings,
        *,
        context: zmq.Context[Socket] | None = None,
    ) -> None:
        self._mirror = mirror
        self._settings = settings
        self._context = context
        self._ranks = [self._rank(*each) for each in enumerate(settings.sources)]
        mirror.fed_by(self.posture)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follows the events until cancelled; started when the sockets are there.

        Raises:
            EndpointUnusable: When an endpoint cannot be connected or bound.
        """
        context = zmq.Context() if self._context is None else self._context
        try:
            with ExitStack() as sockets:
                subs = [sockets.enter_context(self._subscribed(context, r)) for r in self._ranks]
                async with trio.open_nursery() as nursery:
                    for rank, sub in zip(self._ranks, subs, strict=True):
                        nursery.start_soon(self._follow, context, rank, sub)
                    task_status.started()
        finally:
            if self._context is None:
                context.destroy(linger=0)

    def posture(self) -> list[tuple[str, str]]:
        """What has come from where, for the host's owner; the mirror's posture has it too."""
        return [(f"events of {rank.source.endpoint}", _words(rank)) for rank in self._ranks]

    def _rank(self, number: int, source: EventSource) -> _Rank:
        return _Rank(
            number=number,
            source=replace(
                source,
                endpoint=source.endpoint if source.binds else to_connect(source.endpoint),
                replay=None if source.replay is None else to_connect(source.replay),
            ),
            sequence=RankSequence(replays=source.replay is not None),
            clears=self._mirror.clears,
        )

    def _subscribed(
        self, context: zmq.Context[Socket], rank: _Rank
    ) -> AbstractContextManager[Socket]:
        source = rank.source
        topic = source.topic.encode(errors="replace")
        return _opened(
            context, zmq.SUB, source.endpoint, LIVE_BATCHES_MAX, bind=source.binds, topic=topic
        )

    async def _follow(self, context: zmq.Context[Socket], rank: _Rank, sub: Socket) -> None:
        await self._perform(context, rank, rank.sequence.start())
        quiet_s = self._settings.settle_s
        while True:
            parts: list[bytes] | None = None
            with trio.move_on_after(quiet_s):
                parts = await _receive(sub)
            quiet_s = self._settings.idle_s
            if rank.clears != self._mirror.clears:
                rank.clears = self._mirror.clears
                await self._perform(context, rank, rank.sequence.restart())
            await self._perform(context, rank, self._heard(rank, parts))

    def _heard(self, rank: _Rank, parts: list[bytes] | None) -> list[Step]:
        if parts is None:
            return rank.sequence.on_idle()
        rank.batches += 1
        try:
            seq, payload = split(parts)
        except MalformedFrame:
            self._mirror.note(_UNREADABLE)
            return []
        return rank.sequence.on_live(seq, payload) if seq != END_OF_REPLAY else []

    async def _perform(self, context: zmq.Context[Socket], rank: _Rank, steps: list[Step]) -> None:
        waiting = deque(steps)
        while waiting:
            match waiting.popleft():
                case Fold() as fold:
                    await self._fold(rank, fold)
                case Clear():
                    self._mirror.clear_rank(rank.number)
                case AskReplay(start=start):
                    waiting.extend(await self._replay(context, rank, start))
        self._mirror.trust(rank.number, exact=rank.sequence.exact)

    async def _fold(self, rank: _Rank, fold: Fold) -> None:
        try:
            batch = decode(fold.seq, fold.payload)
        except MalformedFrame:
            self._mirror.note(_UNREADABLE)
            rank.sequence.spoil()
            return
        for _ in range(batch.unknown):
            self._mirror.note("events of an unknown kind")
        folded = 0
        for event in batch.events:
            for piece in pieces(event, PIECE_BLOCKS):
                self._mirror.apply(rank.number, piece)
                if isinstance(piece, AllCleared):
                    rank.sequence.settle()
                else:
                    folded += len(piece.block_hashes)
                if folded >= PIECE_BLOCKS:
                    folded = 0
                    await trio.lowlevel.checkpoint()

    async def _replay(self, context: zmq.Context[Socket], rank: _Rank, start: int) -> list[Step]:
        replay = rank.source.replay
        assert replay is not None
        rank.replay_answered = False
        with _opened(context, zmq.DEALER, replay, REPLAY_BATCHES_MAX, bind=False) as dealer:
            dealer.send_multipart([b"", start.to_bytes(8, "big")], zmq.NOBLOCK)
            for _ in range(REPLAY_BATCHES_MAX):
                parts: list[bytes] = []
                with trio.move_on_after(self._settings.replay_wait_s):
                    parts = await _receive(dealer)
                try:
                    seq, payload = split(parts)
                except MalformedFrame:
                    break
                rank.replay_answered = True
                if seq == END_OF_REPLAY:
                    return rank.sequence.on_replay_end(complete=True)
                for step in rank.sequence.on_replayed(seq, payload):
                    assert isinstance(step, Fold)
                    rank.batches += 1
                    await self._fold(rank, step)
        return rank.sequence.on_replay_end(complete=False)


async def _receive(socket: Socket) -> list[bytes]:
    """The next message's parts."""
    await trio.lowlevel.checkpoint()
    while True:
        try:
            return socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            await trio.lowlevel.wait_readable(socket.fileno())


@contextmanager
def _opened(
    context: zmq.Context[Socket],
    kind: int,
    endpoint: str,
    batches_max: int,
    *,
    bind: bool,
    topic: bytes = b"",
) -> Iterator[Socket]:
    socket = context.socket(kind)
    try:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVHWM, batches_max)
        socket.setsockopt(zmq.MAXMSGSIZE, PAYLOAD_BYTES_MAX)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 5000)
        socket.setsockopt(zmq.IPV6, 1)
        if kind == zmq.SUB:
            socket.setsockopt(zmq.SUBSCRIBE, topic)
        try:
            (socket.bind if bind else socket.connect)(endpoint)
        except zmq.ZMQError as error:
            raise EndpointUnusable(f"{endpoint} cannot be used: {error.strerror}") from error
        yield socket
    finally:
        socket.close(linger=0)


def _words(rank: _Rank) -> str:
    sequence = rank.sequence
    words = [f"{rank.batches} batches" if rank.batches else "nothing has come yet"]
    if sequence.lost:
        words.append(f"{sequence.lost} lost")
    if sequence.restarts:
        words.append(f"started anew {sequence.restarts} times")
    if rank.source.replay is None:
        words.append("missed ones cannot be asked for")
    elif rank.replay_answered is False:
        words.append(f"{rank.source.replay} does not answer")
    return "; ".join(words)
