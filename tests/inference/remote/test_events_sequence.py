"""Sequences over a link that loses, repeats and breaks off, against a server that is restarted."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from inference.remote.events.sequence import AskReplay, Clear, Fold, RankSequence, Step


@dataclass
class Server:
    """Publishes numbered batches whose content is (life, number), and replays the newest ones."""

    keep: int = 1000
    life: int = 0
    sent: list[tuple[int, bytes]] = field(default_factory=list)

    def publish(self) -> tuple[int, bytes]:
        seq = len(self.sent)
        self.sent.append((seq, f"{self.life}:{seq}".encode()))
        return self.sent[-1]

    def restart(self) -> None:
        self.life += 1
        self.sent = []

    def replay(self, start: int) -> list[tuple[int, bytes]]:
        return [
            each for each in self.sent[max(0, len(self.sent) - self.keep) :] if each[0] >= start
        ]


@dataclass
class Peer:
    """Performs steps: ``folded`` is what the picture is made of since it was last cleared."""

    server: Server
    sequence: RankSequence
    folded: list[bytes] = field(default_factory=list)
    answers: bool = True
    dropped: set[int] = field(default_factory=set)
    broken_after: int | None = None
    asked: list[int] = field(default_factory=list)

    def perform(self, steps: list[Step]) -> None:
        waiting = deque(steps)
        while waiting:
            match waiting.popleft():
                case Fold(payload=payload):
                    self.folded.append(payload)
                case Clear():
                    self.folded.clear()
                case AskReplay(start=start):
                    assert not waiting
                    self.asked.append(start)
                    assert len(self.asked) < 5000
                    waiting.extend(self.ask(start))

    def ask(self, start: int) -> list[Step]:
        if not self.answers:
            return self.sequence.on_replay_end(complete=False)
        for index, (seq, payload) in enumerate(self.server.replay(start)):
            if self.broken_after is not None and index >= self.broken_after:
                return self.sequence.on_replay_end(complete=False)
            if seq in self.dropped:
                self.dropped.discard(seq)
                continue
            self.perform(self.sequence.on_replayed(seq, payload))
        return self.sequence.on_replay_end(complete=True)

    def hear(self, batch: tuple[int, bytes]) -> None:
        self.perform(self.sequence.on_live(*batch))

    @property
    def up_to_date(self) -> bool:
        return self.folded == [payload for _, payload in self.server.sent]


def peer(*, replays: bool = True, keep: int = 1000, before: int = 0) -> Peer:
    server = Server(keep=keep)
    for _ in range(before):
        server.publish()
    made = Peer(server, RankSequence(replays=replays))
    made.perform(made.sequence.start())
    return made


def test_what_was_told_before_we_came_is_replayed() -> None:
    p = peer(before=5)
    assert p.up_to_date
    assert p.sequence.exact
    p.hear(p.server.publish())
    assert p.up_to_date
    assert p.asked == [0]


def test_a_server_that_has_told_nothing_is_known_exactly() -> None:
    p = peer()
    assert p.sequence.exact
    p.hear(p.server.publish())
    assert p.asked == [0]


def test_a_gap_is_asked_for_from_the_last_batch_on() -> None:
    p = peer(before=3)
    p.server.publish()
    p.server.publish()
    p.hear(p.server.publish())
    assert p.asked == [0, 2]
    assert p.up_to_date
    assert p.sequence.exact
    assert p.sequence.lost == 0


def test_live_batches_that_a_replay_has_told_are_dropped() -> None:
    p = peer(before=3)
    for batch in list(p.server.sent):
        p.hear(batch)
    assert p.up_to_date
    assert p.asked == [0]


def test_old_batches_are_dropped_after_a_replay_longer_than_memory() -> None:
    p = peer(before=3000, keep=5000)
    for batch in p.server.sent:
        p.hear(batch)
    assert p.up_to_date
    assert p.sequence.restarts == 0


def test_a_replay_without_the_beginning_is_inexact_and_kept() -> None:
    p = peer(before=10, keep=4)
    assert not p.sequence.exact
    assert p.sequence.lost == 6
    assert len(p.folded) == 4
    p.hear(p.server.publish())
    p.perform(p.sequence.on_idle())
    assert len(p.folded) == 5
    p.sequence.settle()
    assert p.sequence.exact


def test_a_gap_that_the_replay_has_lost_keeps_what_is_known() -> None:
    p = peer(before=3, keep=2)
    assert p.sequence.lost == 1
    for _ in range(5):
        p.server.publish()
    p.hear(p.server.publish())
    assert not p.sequence.exact
    assert p.folded[:2] == [b"0:1", b"0:2"]
    assert p.folded[2:] == [b"0:7", b"0:8"]


def test_without_a_replay_only_the_first_batch_on_is_exact() -> None:
    p = peer(replays=False)
    assert not p.sequence.exact
    p.hear(p.server.publish())
    assert p.sequence.exact
    p.server.publish()
    p.hear(p.server.publish())
    assert not p.sequence.exact
    assert p.sequence.lost == 1
    assert p.sequence.on_idle() == []
    late = peer(replays=False, before=4)
    late.hear(late.server.publish())
    assert not late.sequence.exact
    assert late.folded == [b"0:4"]


def test_a_restart_is_seen_when_a_number_comes_again_with_other_content() -> None:
    for replays in (True, False):
        p = peer(replays=replays)
        for _ in range(3):
            p.hear(p.server.publish())
        p.server.restart()
        p.hear(p.server.publish())
        assert p.folded == [b"1:0"]
        assert p.sequence.exact
        assert p.sequence.restarts == 1


def test_a_restart_is_seen_when_the_new_server_is_already_further() -> None:
    p = peer(before=3)
    p.server.restart()
    for _ in range(5):
        p.server.publish()
    p.hear(p.server.publish())
    assert p.up_to_date
    assert p.sequence.exact
    assert p.sequence.restarts == 1


def test_a_restart_is_seen_when_nothing_is_heard() -> None:
    p = peer(before=3)
    p.perform(p.sequence.on_idle())
    assert p.sequence.restarts == 0
    p.server.restart()
    p.perform(p.sequence.on_idle())
    assert p.folded == []
    assert p.sequence.exact
    p.hear(p.server.publish())
    assert p.up_to_date


def test_a_server_that_keeps_nothing_for_replay_is_no_server_that_was_restarted() -> None:
    p = peer(keep=0)
    for _ in range(3):
        p.hear(p.server.publish())
    p.perform(p.sequence.on_idle())
    assert p.up_to_date
    assert p.sequence.restarts == 0


def test_the_newest_batch_that_nobody_heard_comes_when_it_is_quiet() -> None:
    p = peer(before=3)
    p.server.publish()
    p.perform(p.sequence.on_idle())
    assert p.up_to_date


def test_a_replay_with_holes_is_asked_for_again() -> None:
    p = peer()
    for _ in range(50):
        p.server.publish()
    p.dropped = {7, 20, 21}
    p.perform(p.sequence.on_idle())
    assert p.up_to_date
    assert p.sequence.exact


def test_a_replay_that_breaks_off_goes_on_where_it_was() -> None:
    p = peer()
    for _ in range(50):
        p.server.publish()
    p.broken_after = 8
    p.perform(p.sequence.on_idle())
    assert p.up_to_date


def test_what_an_unanswered_replay_lost_is_asked_for_again_once_there_are_answers() -> None:
    p = peer(before=3)
    p.answers = False
    p.server.publish()
    p.hear(p.server.publish())
    assert p.folded[-1] == b"0:4"
    assert not p.sequence.exact
    p.hear(p.server.publish())
    p.answers = True
    p.perform(p.sequence.on_idle())
    assert p.up_to_date
    assert p.sequence.exact


def test_a_batch_that_cannot_be_read_is_missed() -> None:
    p = peer(before=3)
    p.sequence.spoil()
    assert not p.sequence.exact
    assert p.perform(p.sequence.restart()) is None
    assert p.up_to_date
    assert p.sequence.exact


class LossyLink(RuleBasedStateMachine):
    """Whatever is lost or repeated: at a quiet moment all is folded once, in order.

    A replay may lose its first batch on the way, which cannot be told from one that the server does
    not have any more: then what is known is not exact, and known to be so.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peer = peer()
        self.flying: list[tuple[int, bytes]] = []
        self.beheaded = False

    @rule(count=st.integers(1, 4))
    def publish(self, count: int) -> None:
        self.flying += [self.peer.server.publish() for _ in range(count)]

    @rule()
    def lose(self) -> None:
        self.flying = self.flying[1:]

    @rule(count=st.integers(1, 6), again=st.booleans())
    def deliver(self, count: int, again: bool) -> None:
        for batch in self.flying[:count]:
            self.peer.hear(batch)
            if again:
                self.peer.hear(batch)
        self.flying = self.flying[count:]

    @rule(kept=st.booleans())
    def restart(self, kept: bool) -> None:
        """A connection that ends takes what is on its way along; at most what was read is left."""
        self.peer.server.restart()
        if not kept:
            self.flying = []

    @rule()
    def quiet(self) -> None:
        self.peer.perform(self.peer.sequence.on_idle())

    @rule(seqs=st.sets(st.integers(0, 20), max_size=3), broken=st.none() | st.integers(2, 5))
    def weaken(self, seqs: set[int], broken: int | None) -> None:
        self.peer.dropped, self.peer.broken_after = seqs, broken
        self.beheaded = self.beheaded or bool(seqs)

    def teardown(self) -> None:
        self.peer.dropped, self.peer.broken_after = set(), None
        for batch in self.flying:
            self.peer.hear(batch)
        for _ in range(3):
            self.peer.perform(self.peer.sequence.on_idle())
        self.peer.hear(self.peer.server.publish())
        self.peer.perform(self.peer.sequence.on_idle())
        lives = [payload.split(b":")[0] for payload in self.peer.folded]
        if len(set(lives)) > 1:
            return  # a new server whose first heard number is the next one: told from elsewhere
        assert self.peer.up_to_date or not self.peer.sequence.exact
        assert self.peer.up_to_date or self.beheaded


TestLossyLink = LossyLink.TestCase
TestLossyLink.settings = settings(max_examples=400, stateful_step_count=25, deadline=None)
