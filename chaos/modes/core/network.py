"""Links and sessions of core mode: who hears whom, when, and how the two ends learn of a break.

A session stands for an authenticated connection (``overlay/transport``): it comes up a moment after
both hosts can reach each other, it ends at once where a process ends, and after a silence where
nothing arrives any more. Answers travel in order and are never lost, as on a reliable channel;
gossip messages may be lost, doubled or overtaken where a fault says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any, Protocol

from chaos.modes.core.heap import Heap

POLL_S = 0.5
"""How often hosts look for others, and for silence."""

SILENT_S = 5.0
"""A pause between pings and the time that one is waited for (``overlay/transport/limits.py``)."""

DOUBLE_GAP_S = 0.01

Deliver = Callable[[], None]
Link = tuple[str, str]


@dataclass(slots=True)
class Weather:
    """What one directed link does to messages: by fault, so that each takes back its own part.

    ``delays`` add seconds to every message, ``late`` to gossip that others may overtake meanwhile;
    ``losses`` and ``doubles`` say for a gossip message whether it is lost or comes twice.
    """

    delay_s: float
    delays: dict[object, Callable[[], float]] = field(default_factory=dict)
    late: dict[object, Callable[[], float]] = field(default_factory=dict)
    losses: dict[object, Callable[[], bool]] = field(default_factory=dict)
    doubles: dict[object, Callable[[], bool]] = field(default_factory=dict)
    cuts: dict[str, Callable[[], None]] = field(default_factory=dict)
    jams: set[str] = field(default_factory=set)
    held: list[Deliver] = field(default_factory=list)
    ready_s: float = 0.0

    @property
    def is_rough(self) -> bool:
        """Whether gossip may be lost, come twice, or be overtaken."""
        return bool(self.losses or self.doubles or self.late)

    def next_delay_s(self) -> float:
        """Delay of the next message."""
        if not self.delays:
            return self.delay_s
        return self.delay_s + sum([draw() for draw in self.delays.values()])


@dataclass(slots=True, eq=False)
class End:
    """One side of a session, and what the router sees of a connection. ``far`` is the other one."""

    me: str
    other: str
    boot: int
    heard_s: float
    rtt_s: float
    far: End = field(init=False, repr=False)
    up: bool = True
    remote: Any = field(default_factory=lambda: SimpleNamespace(hello=SimpleNamespace(zone=None)))

    @property
    def last_heard_s(self) -> float:
        return self.heard_s


@dataclass(slots=True, eq=False)
class Session:
    """Both ends, by the names of their hosts."""

    ends: dict[str, End]

    def __post_init__(self) -> None:
        first, second = self.ends.values()
        first.far, second.far = second, first

    def whole(self) -> bool:
        first, second = self.ends.values()
        return first.up and second.up


class Endpoint(Protocol):
    """What the network asks of a host."""

    name: str
    starts: int

    @property
    def frozen(self) -> bool:
        """Whether its process is stopped."""
        ...

    def running_now(self) -> bool:
        """Whether its peer runs (a frozen one too)."""
        ...

    def enter(self, boot: int, call: Deliver) -> None:
        """Calls into that boot of the peer: not at all where it is gone, later where frozen."""
        ...

    def session_up(self, end: End) -> None:
        """A session came up."""
        ...

    def session_down(self, end: End) -> None:
        """A session ended on this side."""
        ...

    def hear(self, end: End, data: bytes) -> None:
        """A gossip message came over a session."""
        ...


class CoreNetwork:
    """All links between named hosts."""

    def __init__(self, heap: Heap, delay_s: float, hosts: Sequence[Endpoint]) -> None:
        self._heap = heap
        self._hosts = {host.name: host for host in hosts}
        self._weather = {
            (a, b): Weather(delay_s) for a in self._hosts for b in self._hosts if a != b
        }
        self._sessions: dict[tuple[str, str], Session] = {}
        names = list(self._hosts)
        self._pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
        self.deliveries = 0
        heap.after(POLL_S, self._poll)

    # -- faults of links

    def weather(self, link: Link) -> Weather:
        """What a directed link is like now."""
        return self._weather[link]

    def links(self) -> list[Link]:
        """Every directed link."""
        return list(self._weather)

    @contextmanager
    def cut(self, key: str, links: Sequence[Link], on_lost: Callable[[], None]) -> Iterator[None]:
        """Nothing arrives over these directed links; ``on_lost`` hears of each lost message."""
        with ExitStack() as undo:
            for link in links:
                cuts = self._weather[link].cuts
                undo.callback(cuts.pop, key, None)
                cuts[key] = on_lost
            yield

    @contextmanager
    def jam(
        self, key: str, links: Sequence[Link], on_held: Callable[[int], None]
    ) -> Iterator[None]:
        """Everything is held, and arrives at once in the end; ``on_held`` hears how much it was."""
        with ExitStack() as undo:
            for link in links:
                undo.callback(self._release, key, link, on_held)
                self._weather[link].jams.add(key)
            yield

    def _release(self, key: str, link: Link, on_held: Callable[[int], None]) -> None:
        weather = self._weather[link]
        weather.jams.discard(key)
        if not weather.jams:
            held, weather.held = weather.held, []
            on_held(len(held))
            for deliver in held:
                self._heap.after(0.0, deliver)

    def reset(self, link: Link) -> bool:
        """Breaks the session of two hosts; whether there was one."""
        session = self._session(*link)
        if session is None or not session.whole():
            return False
        for name in link:
            self._end(session, name)
        return True

    # -- sessions

    def _session(self, a: str, b: str) -> Session | None:
        return self._sessions.get((a, b)) or self._sessions.get((b, a))

    def open_sessions(self, name: str) -> list[End]:
        """Ends of a host that are up."""
        return [
            session.ends[name]
            for pair, session in self._sessions.items()
            if name in pair and session.ends[name].up
        ]

    def process_gone(self, name: str) -> None:
        """The system of a host closes what its process had open: the others hear of it."""
        for pair, session in self._sessions.items():
            if name in pair and session.ends[name].up:
                session.ends[name].up = False
                other = pair[0] if pair[1] == name else pair[1]
                self._goodbye(session, name, other)

    def hang_up(self, end: End) -> None:
        """A host ends a session by itself."""
        session = self._session(end.me, end.other)
        if session is not None and session.ends[end.me] is end and end.up:
            self._end(session, end.me)
            self._goodbye(session, end.me, end.other)

    def _goodbye(self, session: Session, name: str, other: str) -> None:
        heard = partial(self._end, session, other)
        self._carry(self._weather[name, other], self._heap.now_s, session.ends[other], heard)

    def _end(self, session: Session, name: str) -> None:
        end = session.ends[name]
        if end.up:
            end.up = False
            host = self._hosts[name]
            host.enter(end.boot, lambda: host.session_down(end))

    def _poll(self) -> None:
        self._heap.after(POLL_S, self._poll)
        for a, b in self._pairs:
            session = self._sessions.get((a, b))
            if session is None or not session.whole():
                self._try_to_connect(a, b)
            if session is not None:
                for end in session.ends.values():
                    if end.up:
                        self._listen(session, end)

    def _listen(self, session: Session, end: End) -> None:
        """A host that hears nothing for long ends its side, and says so."""
        me, other = end.me, end.other
        if self._hosts[me].frozen:
            return
        weather, host = self._weather[other, me], self._hosts[other]
        quiet = weather.cuts or weather.jams or not end.far.up
        if not quiet and host.running_now() and not host.frozen:
            end.heard_s = self._heap.now_s
        elif self._heap.now_s - end.heard_s >= SILENT_S:
            self._end(session, me)
            self._goodbye(session, me, other)

    def _try_to_connect(self, a: str, b: str) -> None:
        hosts = self._hosts[a], self._hosts[b]
        ways = self._weather[a, b], self._weather[b, a]
        if any(way.cuts or way.jams for way in ways):
            return
        if any(host.frozen or not host.running_now() for host in hosts):
            return
        before = self._sessions.get((a, b))
        if before is not None:  # one side has not noticed yet that the other has gone
            self._end(before, a)
            self._end(before, b)
        rtt_s = sum(way.next_delay_s() for way in ways)
        ends = {
            me: End(me, other, self._hosts[me].starts, self._heap.now_s, rtt_s)
            for me, other in ((a, b), (b, a))
        }
        self._sessions[a, b] = Session(ends)
        for end, host in zip(ends.values(), hosts, strict=True):
            host.session_up(end)

    # -- messages

    def tell(self, end: End, call: Deliver) -> None:
        """One message of an answer or a request: in order, never lost while the session lives."""
        self._tell(end, call, gossip=False)

    def gossip(self, end: End, data: bytes) -> None:
        """One gossip message."""
        far = self.far(end)
        if far is not None:
            host = self._hosts[far.me]
            self._tell(end, partial(host.hear, far, data), gossip=True)

    def far(self, end: End) -> End | None:
        """The other side of a session that is up on this one."""
        return end.far if end.up else None

    def _tell(self, end: End, call: Deliver, *, gossip: bool) -> None:
        far = self.far(end)
        if far is None:
            return
        weather = self._weather[end.me, end.other]
        late_s, again = 0.0, False
        if gossip and weather.is_rough:
            # Every fault draws for every message: taking one away re-deals nothing of the others.
            lost = [draw() for draw in weather.losses.values()]
            doubled = [draw() for draw in weather.doubles.values()]
            if any(lost):
                return
            late_s = sum([draw() for draw in weather.late.values()])
            again = any(doubled)
        weather.ready_s = max(weather.ready_s, self._heap.now_s + weather.next_delay_s())
        self._carry(weather, weather.ready_s + late_s, far, call)
        if again:
            self._carry(weather, weather.ready_s + DOUBLE_GAP_S, far, call)

    def _carry(self, weather: Weather, when_s: float, end: End, call: Deliver) -> None:
        """Calls into the host of an end when a message over that link arrives there."""
        self._heap.at(when_s, partial(self._come, weather, end, call))

    def _come(self, weather: Weather, end: End, call: Deliver) -> None:
        if weather.cuts:
            for on_lost in weather.cuts.values():
                on_lost()
        elif weather.jams:
            weather.held.append(partial(self._arrive, end, call))
        else:
            self._arrive(end, call)

    def _arrive(self, end: End, call: Deliver) -> None:
        self.deliveries += 1
        if end.up:
            self._hosts[end.me].enter(end.boot, call)
