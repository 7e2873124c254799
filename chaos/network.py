"""An in-memory network of hosts: delay, cuts, frozen and dead hosts, in virtual time.

Carries what TCP and TLS would carry, and behaves as they do: a cut link stalls and resumes (bytes
are held, nothing is lost or reordered), a frozen host falls silent without an error, a dead host
breaks its connections. ``SimTransport`` stands in for TLS: the far end's leaf is handed over as it
would be after a handshake in which it proved its key; everything above (judging, HELLO, mux) is
the product's own code.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from chaos.trace import Trace
from overlay.address import Address
from overlay.ports import PeerHint, SecureChannel
from security.certificate import parse_leaf
from security.errors import IdentityMismatch
from security.peer_id import PeerId

IN_FLIGHT_BYTES_MAX = 1 << 20
"""A sender waits while this much is undelivered, like a full TCP window."""

FIRST_ANY_PORT = 40_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One direction between two hosts. ``delay_s`` is one way."""

    delay_s: float = 0.0002
    cut: bool = False


class Pipe:
    """One direction of a connection: bytes with the time they are due."""

    def __init__(self, network: Network, source: str, target: str) -> None:
        self._network = network
        self.source = source
        self.target = target
        self._queue: deque[tuple[float, bytes]] = deque()
        self._size_bytes = 0
        self._changed = trio.Event()
        self._ended = False
        self._broken = False

    def wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        while self._size_bytes > IN_FLIGHT_BYTES_MAX and not self._broken:
            await self._changed.wait()
        if self._broken:
            raise trio.BrokenResourceError("the far host is gone")
        due_s = trio.current_time() + self._network.link(self.source, self.target).delay_s
        if self._queue:
            due_s = max(due_s, self._queue[-1][0])
        self._queue.append((due_s, data))
        self._size_bytes += len(data)
        self._network.trace.add_chunk(self.source, self.target, len(data))
        self.wake()

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            changed = self._changed
            due_s = self._next_due_s()
            if due_s <= trio.current_time():
                _, data = self._queue.popleft()
                self._size_bytes -= len(data)
                self.wake()
                return data
            if self._broken:
                raise trio.BrokenResourceError("the far host is gone")
            if self._ended and not self._queue and self._network.delivers(self.source, self.target):
                return b""
            with trio.move_on_at(due_s):
                await changed.wait()

    def _next_due_s(self) -> float:
        if not self._queue or not self._network.delivers(self.source, self.target):
            return math.inf
        return self._queue[0][0]

    def end(self) -> None:
        """Orderly end: what is under way still arrives."""
        self._ended = True
        self.wake()

    def abort(self) -> None:
        """Abrupt end: what is under way is lost."""
        self._broken = True
        self._queue.clear()
        self._size_bytes = 0
        self.wake()


class SimChannel:
    """``overlay.ports.ByteChannel`` over two pipes."""

    def __init__(self, outgoing: Pipe, incoming: Pipe) -> None:
        self._outgoing = outgoing
        self._incoming = incoming
        self._closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._closed:
            raise trio.ClosedResourceError
        await self._outgoing.send(bytes(data))

    async def receive_some(self) -> bytes:
        if self._closed:
            raise trio.ClosedResourceError
        data = await self._incoming.receive()
        if self._closed:
            raise trio.ClosedResourceError
        return data

    async def aclose(self) -> None:
        self._closed = True
        self._outgoing.end()
        self._incoming.abort()
        await trio.lowlevel.checkpoint()


Accept = Callable[[SecureChannel], Awaitable[None]]


@dataclass(slots=True)
class Listener:
    """A listening port of a simulated host."""

    accept: Accept
    nursery: trio.Nursery
    transport: SimTransport


class Network:
    """All hosts and links of one simulation. Hosts are named by their IP address."""

    def __init__(self, trace: Trace, default: Link | None = None) -> None:
        self.trace = trace
        self._default = default or Link()
        self._links: dict[tuple[str, str], Link] = {}
        self._frozen: set[str] = set()
        self._pipes: list[Pipe] = []
        self.listeners: dict[Address, Listener] = {}
        self._ports = itertools.count(FIRST_ANY_PORT)
        self.announced: dict[str, PeerHint] = {}
        self._browsers: list[tuple[str, trio.MemorySendChannel[PeerHint]]] = []

    def link(self, source: str, target: str) -> Link:
        return self._links.get((source, target), self._default)

    def set_link(self, source: str, target: str, link: Link) -> None:
        """Changes one direction; what is under way keeps its due time."""
        self._links[source, target] = link
        self._wake()

    def partition(self, left: Sequence[str], right: Sequence[str]) -> None:
        """Cuts every link between the two groups, both ways."""
        for a, b in itertools.product(left, right):
            self.set_link(a, b, Link(delay_s=self.link(a, b).delay_s, cut=True))
            self.set_link(b, a, Link(delay_s=self.link(b, a).delay_s, cut=True))

    def heal(self) -> None:
        """Ends every cut; delays stay."""
        for (a, b), link in list(self._links.items()):
            self._links[a, b] = Link(delay_s=link.delay_s)
        self._wake()

    def freeze(self, host: str) -> None:
        """The host falls silent without an error, as under SIGSTOP."""
        self._frozen.add(host)

    def thaw(self, host: str) -> None:
        self._frozen.discard(host)
        self._wake()

    def kill(self, host: str) -> None:
        """The host is gone: listeners vanish and every connection of it breaks."""
        for address in [a for a in self.listeners if a.host == host]:
            del self.listeners[address]
        self.announced.pop(host, None)
        for pipe in self._pipes:
            if host in {pipe.source, pipe.target}:
                pipe.abort()
        self._pipes = [p for p in self._pipes if host not in {p.source, p.target}]

    def delivers(self, source: str, target: str) -> bool:
        if source in self._frozen or target in self._frozen:
            return False
        return not self.link(source, target).cut

    def connect(self, source: str, target: str) -> tuple[SimChannel, SimChannel]:
        self.trace.add(source, "connected", target)
        there, back = Pipe(self, source, target), Pipe(self, target, source)
        self._pipes += [there, back]
        return SimChannel(there, back), SimChannel(back, there)

    def any_port(self) -> int:
        return next(self._ports)

    def announce(self, host: str, hint: PeerHint) -> None:
        self.announced[host] = hint
        for browser, hints in self._browsers:
            self._offer(browser, hints, host)

    def browse(self, host: str, hints: trio.MemorySendChannel[PeerHint]) -> None:
        self._browsers.append((host, hints))
        for other in list(self.announced):
            self._offer(host, hints, other)

    def requery(self, host: str, hints: trio.MemorySendChannel[PeerHint]) -> None:
        for other in list(self.announced):
            self._offer(host, hints, other)

    def stop_browsing(self, hints: trio.MemorySendChannel[PeerHint]) -> None:
        self._browsers = [(host, h) for host, h in self._browsers if h is not hints]

    def _offer(self, browser: str, hints: trio.MemorySendChannel[PeerHint], host: str) -> None:
        if host != browser and self.delivers(host, browser):
            try:
                hints.send_nowait(self.announced[host])
            except (trio.WouldBlock, trio.BrokenResourceError):
                self.trace.add(browser, "hint-dropped", host)

    def _wake(self) -> None:
        for pipe in self._pipes:
            pipe.wake()


class SimTransport:
    """``overlay.ports.Transport`` on a simulated network."""

    def __init__(self, network: Network, host: str, leaf: bytes, issuer: bytes) -> None:
        self._network = network
        self.host = host
        self._leaf = leaf
        self._issuer = issuer

    async def listen(
        self,
        addresses: Sequence[Address],
        accept: Accept,
        *,
        task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        bound = tuple(
            Address(self.host, address.port or self._network.any_port()) for address in addresses
        )
        async with trio.open_nursery() as nursery:
            for address in bound:
                self._network.listeners[address] = Listener(accept, nursery, self)
            task_status.started(bound)
            try:
                await trio.sleep_forever()
            finally:
                for address in bound:
                    self._network.listeners.pop(address, None)

    async def dial(self, address: Address, peer_id: PeerId | None) -> SecureChannel:
        network = self._network
        network.trace.add(self.host, "dial", address.host)
        if not network.delivers(self.host, address.host):
            await trio.sleep_forever()
        # TCP and TLS 1.3: two round trips before the first byte of ours.
        await trio.sleep(4 * network.link(self.host, address.host).delay_s)
        listener = network.listeners.get(address)
        if listener is None:
            raise ConnectionRefusedError(f"nobody listens on {address}")
        far = listener.transport
        if peer_id is not None and parse_leaf(far._leaf).peer_id != peer_id:
            raise IdentityMismatch("the far end is not the peer that was dialled")
        ours, theirs = network.connect(self.host, address.host)
        listener.nursery.start_soon(
            self._accept,
            listener.accept,
            SecureChannel(
                channel=theirs,
                leaf=self._leaf,
                issuer=self._issuer,
                address=Address(self.host, network.any_port()),
            ),
        )
        return SecureChannel(channel=ours, leaf=far._leaf, issuer=far._issuer, address=address)

    async def _accept(self, accept: Accept, channel: SecureChannel) -> None:
        try:
            await accept(channel)
        except Exception as error:  # noqa: BLE001 - the contract: a failed accept ends its channel
            self._network.trace.add(self.host, "accept-failed", type(error).__name__)
        finally:
            with trio.CancelScope(shield=True):
                await channel.channel.aclose()


class SimDiscovery:
    """``overlay.ports.Discovery`` by word of mouth inside the simulated network."""

    def __init__(self, network: Network, host: str, *, requery_s: float = 10.0) -> None:
        self._network = network
        self._host = host
        self._requery_s = requery_s

    async def run(
        self,
        peer_id: PeerId,
        addresses: Sequence[Address],
        hints: trio.MemorySendChannel[PeerHint],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        async with hints:
            self._network.announce(
                self._host, PeerHint(peer_id=peer_id, addresses=tuple(addresses))
            )
            self._network.browse(self._host, hints)
            task_status.started()
            try:
                while True:
                    await trio.sleep(self._requery_s)
                    self._network.requery(self._host, hints)
            finally:
                self._network.announced.pop(self._host, None)
                self._network.stop_browsing(hints)
