"""Finding peers by multicast DNS: python-zeroconf behind one adapter.

zeroconf runs on asyncio in a thread of its own, and this is the only file that knows. Rules:

1. Everything of zeroconf happens on its loop, in :class:`_Lan`; trio hears of it by
   ``run_sync_soon`` and is never waited for from there (that stalls both).
2. zeroconf's browser asks four times in 14 s and then not for an hour, so the questions are ours:
   soon after the start at growing intervals, then for ever. Peers that a healed network brings
   together find each other within :data:`REQUERY_S` and its jitter.
3. A record of a crashed peer outlives it by many minutes. A hint is given again only when the
   peer itself is heard again; whether it lives is for the overlay's own pings to say.
4. Labels are random and of 128 bits, so nobody probes for conflicts and nobody is renamed.
5. What the LAN sends is bounded: instances known, lookups under way, time of each.

Where multicast cannot be had (no address, port 5353 taken), that is logged and tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import random
from collections.abc import Callable, Sequence

import trio
from zeroconf import (  # type: ignore[attr-defined]  # the DNS ones are there, but not in __all__
    DNSOutgoing,
    DNSPointer,
    DNSQuestion,
    Error,
    RecordUpdate,
    RecordUpdateListener,
    Zeroconf,
)
from zeroconf.asyncio import AsyncServiceInfo

from overlay.address import Address
from overlay.discovery.announcement import SERVICE_TYPE, Announcement, Reader, announcements
from overlay.discovery.interfaces import Interface
from overlay.ports import Entropy, PeerHint
from security.peer_id import PeerId

TYPE_PTR, CLASS_IN, FLAGS_QUERY = 12, 1, 0
"""RFC 1035: a pointer record, the internet class, the header flags of a question."""

REQUERY_S = 8.0
START_INTERVALS_S = (0.05, 1.0, 2.0, 4.0)
"""RFC 6762 section 5.2: at least 20 ms before the first question, then growing."""

JITTER = 0.2
INSTANCES_MAX = 1024
"""Far above any LAN this serves; with more, those not heard of for longest are forgotten."""

LOOKUPS_MAX = 16
LOOKUP_MS = 2000
RETRY_S = 15.0
CLOSE_S = 3.0
"""Saying goodbye takes 0.25 s."""

LABEL_BYTES = 16

_log = logging.getLogger(__name__)


class MdnsDiscovery:
    """``overlay.ports.Discovery`` by multicast DNS on the given interfaces."""

    def __init__(
        self,
        *,
        overlay_id: str,
        interfaces: Sequence[Interface],
        entropy: Entropy,
        requery_s: float = REQUERY_S,
    ) -> None:
        self._overlay_id = overlay_id
        self._hosts = multicast_hosts(interfaces)
        self._entropy = entropy
        self._requery_s = requery_s
        self.dropped = 0

    async def run(
        self,
        peer_id: PeerId,
        addresses: Sequence[Address],
        hints: trio.MemorySendChannel[PeerHint],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        reader = Reader(peer_id, self._overlay_id, addresses)
        ours = announcements(peer_id, self._overlay_id, addresses)
        started = _Once(task_status.started)
        async with hints:
            while True:
                try:
                    await self._run_once(reader, ours, hints, started)
                except (OSError, RuntimeError, Error) as error:
                    _log.warning(
                        "multicast DNS is not to be had on %s (%s: %s); trying again every %d s",
                        ", ".join(self._hosts) or "these interfaces",
                        type(error).__name__,
                        error,
                        int(RETRY_S),
                    )
                started()
                await trio.sleep(RETRY_S)

    async def _run_once(
        self,
        reader: Reader,
        ours: Sequence[Announcement],
        hints: trio.MemorySendChannel[PeerHint],
        started: Callable[[], None],
    ) -> None:
        token = trio.lowlevel.current_trio_token()
        if not self._hosts:
            raise OSError("no address that multicast DNS works on")
        zeroconf = await trio.to_thread.run_sync(_open, list(self._hosts))
        loop = zeroconf.loop
        assert loop is not None
        lan = _Lan(
            zeroconf,
            reader,
            labels=[self._entropy.secret(LABEL_BYTES).hex() for _ in ours],
            give=lambda hint: _soon(token, lambda: self._give(hints, hint)),
            rng=random.Random(self._entropy.rng.getrandbits(64)),
            requery_s=self._requery_s,
        )
        ready, done = trio.Event(), trio.Event()
        serving = asyncio.run_coroutine_threadsafe(
            lan.serve(ours, lambda: _soon(token, ready.set)), loop
        )
        serving.add_done_callback(lambda _: _soon(token, lambda: (ready.set(), done.set())))
        try:
            await ready.wait()
            if not serving.done():
                started()
            await done.wait()
        finally:
            with trio.move_on_after(CLOSE_S, shield=True):
                loop.call_soon_threadsafe(lan.stop)
                await done.wait()
                await trio.to_thread.run_sync(zeroconf.close, abandon_on_cancel=True)
        serving.result()

    def _give(self, hints: trio.MemorySendChannel[PeerHint], hint: PeerHint) -> None:
        try:
            hints.send_nowait(hint)
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            self.dropped += 1


def multicast_hosts(interfaces: Sequence[Interface]) -> tuple[str, ...]:
    """One IPv4 and one IPv6 address of each interface, to send and receive multicast on.

    IPv6 prefers the link-local one, which needs no router; loopback has no IPv6 multicast.
    """
    hosts: list[str] = []
    for interface in interfaces:
        by_version: dict[int, list[str]] = {4: [], 6: []}
        for host in interface.hosts:
            by_version[ipaddress.ip_address(host).version].append(host.partition("%")[0])
        v6 = [host for host in by_version[6] if not ipaddress.ip_address(host).is_loopback]
        v6.sort(key=lambda host: not ipaddress.ip_address(host).is_link_local)
        hosts += [*by_version[4][:1], *v6[:1]]
    return tuple(dict.fromkeys(hosts))


def _open(hosts: list[str]) -> Zeroconf:
    return Zeroconf(interfaces=hosts, use_asyncio=False)


def _soon(token: trio.lowlevel.TrioToken, act: Callable[[], object]) -> None:
    with contextlib.suppress(trio.RunFinishedError):
        token.run_sync_soon(act)


class _Once:
    """Calls a function the first time only."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act
        self._called = False

    def __call__(self) -> None:
        if not self._called:
            self._called = True
            self._act()


class _Lan(RecordUpdateListener):
    """Announces, asks and listens, on zeroconf's own loop; nothing here is called from trio.

    ``give`` is called on that loop for each hint.
    """

    def __init__(
        self,
        zeroconf: Zeroconf,
        reader: Reader,
        *,
        labels: Sequence[str],
        give: Callable[[PeerHint], None],
        rng: random.Random,
        requery_s: float,
    ) -> None:
        super().__init__()
        self._zeroconf = zeroconf
        self._reader = reader
        self._labels = tuple(labels)
        self._give = give
        self._rng = rng
        self._requery_s = requery_s
        self._heard_s: dict[str, float] = {}
        self._given_s: dict[str, float] = {}
        self._lookups: dict[str, asyncio.Task[None]] = {}
        self._stop = asyncio.Event()

    async def serve(self, ours: Sequence[Announcement], ready: Callable[[], None]) -> None:
        """Runs until :meth:`stop`; the goodbye is said when zeroconf is closed."""
        zeroconf = self._zeroconf
        await zeroconf.async_wait_for_start()
        zeroconf.async_add_listener(self, DNSQuestion(SERVICE_TYPE, TYPE_PTR, CLASS_IN))
        broadcasts: list[asyncio.Future[None]] = [
            asyncio.ensure_future(
                await zeroconf.async_register_service(
                    _service(announcement, label), cooperating_responders=True
                )
            )
            for announcement, label in zip(ours, self._labels, strict=True)
        ]
        ready()
        try:
            await self._ask_for_ever()
        finally:
            zeroconf.async_remove_listener(self)
            unfinished = [*broadcasts, *self._lookups.values()]
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)

    def stop(self) -> None:
        self._stop.set()

    async def _ask_for_ever(self) -> None:
        starting = list(START_INTERVALS_S)
        while True:
            interval_s = min(starting.pop(0), self._requery_s) if starting else self._requery_s
            interval_s *= self._rng.uniform(1 - JITTER, 1 + JITTER)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), interval_s)
                return
            if starting or not self._all_heard_within(self._requery_s / 2):
                self._ask()

    def _all_heard_within(self, span_s: float) -> bool:
        """True where somebody else has just asked, and everybody known has answered us too."""
        now_s = asyncio.get_running_loop().time()
        heard = self._heard_s.values()
        return bool(heard) and all(now_s - at_s <= span_s for at_s in heard)

    def _ask(self) -> None:
        # Without known answers, so that every living peer answers: that tells it from a dead one.
        out = DNSOutgoing(FLAGS_QUERY)
        out.add_question(DNSQuestion(SERVICE_TYPE, TYPE_PTR, CLASS_IN))
        self._zeroconf.async_send(out)

    def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        del zc
        for update in records:
            record = update.new
            if isinstance(record, DNSPointer) and record.name.lower() == SERVICE_TYPE:
                self._on_pointer(record.alias, gone=record.is_expired(now))

    def _on_pointer(self, name: str, *, gone: bool) -> None:
        if name.partition(".")[0] in self._labels:
            return
        if gone:
            self._heard_s.pop(name, None)
            self._given_s.pop(name, None)
            return
        loop = asyncio.get_running_loop()
        self._heard_s.pop(name, None)
        self._heard_s[name] = loop.time()
        while len(self._heard_s) > INSTANCES_MAX:
            oldest = next(iter(self._heard_s))
            del self._heard_s[oldest]
            self._given_s.pop(oldest, None)
        # Several answers to one question are one hint; the next question's are another, in case
        # the first hint was dropped or its peer could not be reached then.
        given_s = self._given_s.get(name)
        if given_s is not None and loop.time() - given_s < self._requery_s / 2:
            return
        if name not in self._lookups and len(self._lookups) < LOOKUPS_MAX:
            lookup = loop.create_task(self._look_up(name))
            self._lookups[name] = lookup
            lookup.add_done_callback(lambda _: self._lookups.pop(name, None))

    async def _look_up(self, name: str) -> None:
        """Turns a name into a hint; a name without complete records gives none."""
        with contextlib.suppress(Error):
            info = AsyncServiceInfo(SERVICE_TYPE, name)
            if await info.async_request(self._zeroconf, LOOKUP_MS):
                hint = self._reader.read(info.properties, info.parsed_scoped_addresses(), info.port)
                if hint is not None:
                    self._given_s[name] = asyncio.get_running_loop().time()
                    self._give(hint)


def _service(announcement: Announcement, label: str) -> AsyncServiceInfo:
    return AsyncServiceInfo(
        SERVICE_TYPE,
        f"{label}.{SERVICE_TYPE}",
        port=announcement.port,
        properties=dict(announcement.txt),
        server=f"{label}.local.",
        parsed_addresses=list(announcement.hosts),
    )
