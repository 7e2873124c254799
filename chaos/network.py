"""An in-memory network of hosts: links and their faults, frozen and dead hosts, in virtual time.

Carries what TCP and TLS would carry, and behaves as they do: a cut link stalls and resumes (bytes
are held, nothing is lost or reordered), a frozen host falls silent without an error, a dead host
breaks its connections. ``SimTransport`` stands in for TLS: the far end's leaf is handed over as it
would be after a handshake in which it proved its key and both ends found the other's issuer to
chain to their root; everything above (judging, HELLO, mux) is the product's own code.
"""

from __future__ import annotations

import errno
import functools
import itertools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

import trio

from chaos.pipe import Alarms, Impairment, Link, Pipe, SimChannel
from chaos.trace import Trace
from overlay.address import Address
from overlay.ports import PeerHint, SecureChannel
from security.certificate import parse_leaf, verify_issued
from security.errors import IdentityMismatch, SecurityError, UntrustedIssuer
from security.peer_id import PeerId
from security.root_bundle import read_issuer

FIRST_ANY_PORT = 40_000
PRUNE_AT_PIPES = 256
CHAINS_MAX = 1024
"""Chains that were found good and are not checked again."""

Accept = Callable[[SecureChannel], Awaitable[None]]


@dataclass(slots=True)
class Listener:
    """A listening port of a simulated host."""

    accept: Accept
    nursery: trio.Nursery
    transport: SimTransport


@dataclass(slots=True)
class HostState:
    """What ails one host as a whole, by the keys of the faults that do it.

    ``no_files``: it can neither open nor accept a connection. ``deaf``: discovery tells it of
    nobody. Each value is called when that has an effect. ``seen_as`` is the address that its
    connections come from, where it is another one.
    """

    frozen: bool = False
    no_files: dict[str, Callable[[], None]] = field(default_factory=dict)
    deaf: dict[str, Callable[[], None]] = field(default_factory=dict)
    seen_as: str | None = None


class Network:
    """All hosts and links of one simulation. Hosts are named by their IP address."""

    def __init__(self, trace: Trace, default: Link | None = None) -> None:
        self.trace = trace
        self._default = default or Link()
        self._links: dict[tuple[str, str], Link] = {}
        self._impairments: dict[tuple[str, str], dict[str, Impairment]] = {}
        self._hosts: dict[str, HostState] = {}
        self._pipes: list[Pipe] = []
        self.alarms = Alarms()
        self._prune_at = PRUNE_AT_PIPES
        self.listeners: dict[Address, Listener] = {}
        self._ports = itertools.count(FIRST_ANY_PORT)
        self.announced: dict[str, PeerHint] = {}
        self._browsers: list[tuple[str, trio.MemorySendChannel[PeerHint]]] = []

    # -- links

    def link(self, source: str, target: str) -> Link:
        return self._links.get((source, target), self._default)

    def partition(self, left: Sequence[str], right: Sequence[str]) -> None:
        """Cuts every link between the two groups, both ways."""
        for a, b in itertools.product(left, right):
            self._links[a, b] = Link(delay_s=self.link(a, b).delay_s, cut=True)
            self._links[b, a] = Link(delay_s=self.link(b, a).delay_s, cut=True)
        self._refresh()

    def heal(self) -> None:
        """Ends every cut; delays and impairments stay."""
        for (a, b), link in list(self._links.items()):
            self._links[a, b] = Link(delay_s=link.delay_s)
        self._refresh()

    def impair(self, key: str, links: Iterable[tuple[str, str]], impairment: Impairment) -> None:
        """Puts an impairment on directed links, on top of those that they have."""
        for link in links:
            self._impairments.setdefault(link, {})[key] = impairment
        self._refresh()

    def relieve(self, key: str) -> None:
        """Takes an impairment off all its links. Unknown: no effect."""
        lifted: dict[tuple[str, str], Impairment] = {}
        for link, impairments in self._impairments.items():
            if key in impairments:
                lifted[link] = impairments.pop(key)
        for pipe in list(self._pipes):
            impairment = lifted.get((pipe.source, pipe.target))
            if impairment is not None:
                impairment.lifted(pipe)
        self._refresh()

    def impairments(self, source: str, target: str) -> tuple[Impairment, ...]:
        """What ails a link, in the order in which it began."""
        return tuple(self._impairments.get((source, target), {}).values())

    def reset(self, links: Iterable[tuple[str, str]]) -> int:
        """Breaks every connection over these links at both ends.

        Returns:
            How many there were.
        """
        chosen = set(links)
        found = [
            pipe
            for pipe in self._pipes
            if (pipe.source, pipe.target) in chosen and not pipe.is_done
        ]
        for pipe in found:
            pipe.break_now()
        return len(found)

    # -- hosts

    def host(self, host: str) -> HostState:
        """What ails a host."""
        return self._hosts.setdefault(host, HostState())

    def freeze(self, host: str) -> None:
        """The host falls silent without an error, as under SIGSTOP."""
        self.host(host).frozen = True
        self._refresh()

    def thaw(self, host: str) -> None:
        self.host(host).frozen = False
        self._refresh()

    def kill(self, host: str) -> None:
        """The host is gone: listeners vanish and every connection of it breaks."""
        for address in [a for a in self.listeners if a.host == host]:
            del self.listeners[address]
        self.announced.pop(host, None)
        for pipe in self._pipes:
            if pipe.source == host:
                pipe.reset()

    def move(self, host: str, seen_as: str) -> int:
        """The host comes from another address now; what it has open is dead, without a word.

        Returns:
            How many connections it had.
        """
        self.host(host).seen_as = seen_as
        mine = [pipe for pipe in self._pipes if host in {pipe.source, pipe.target}]
        for pipe in mine:
            pipe.lose()
        return sum(not pipe.is_done for pipe in mine) // 2

    def buffered_bytes(self, host: str) -> int:
        """Bytes under way to and from a host."""
        return sum(p.size_bytes for p in self._pipes if host in {p.source, p.target})

    def delivers(self, source: str, target: str) -> bool:
        if self._is_frozen(source) or self._is_frozen(target) or self.link(source, target).cut:
            return False
        return not any(i.holds or i.swallows for i in self.impairments(source, target))

    def _is_frozen(self, host: str) -> bool:
        state = self._hosts.get(host)
        return state is not None and state.frozen

    # -- connections

    def connect(self, source: str, target: str) -> tuple[SimChannel, SimChannel]:
        self.trace.add(source, "connected", target)
        there = Pipe(self.trace, self.alarms, source, target)
        back = Pipe(self.trace, self.alarms, target, source)
        there.back, back.back = back, there
        if len(self._pipes) >= self._prune_at:
            self._pipes = [pipe for pipe in self._pipes if not pipe.is_done]
            self._prune_at = 2 * len(self._pipes) + PRUNE_AT_PIPES
        self._pipes += [there, back]
        self._fit(there)
        self._fit(back)
        return SimChannel(there, back), SimChannel(back, there)

    def any_port(self) -> int:
        return next(self._ports)

    def seen_as(self, host: str) -> str:
        """The address that a host's connections come from."""
        return self.host(host).seen_as or host

    def blocked(self, source: str, target: str) -> bool:
        """Whether a handshake between two hosts hangs; tells the faults that make it so."""
        ways = ((source, target), (target, source))
        if all(self.delivers(a, b) for a, b in ways):
            return False
        for way in ways:
            for impairment in self.impairments(*way):
                if impairment.holds or impairment.swallows:
                    impairment.on_effect()
        return True

    def round_trip_s(self, source: str, target: str) -> float:
        """One round trip of a handshake."""
        total_s = 0.0
        for a, b in ((source, target), (target, source)):
            total_s += self.link(a, b).delay_s
            total_s += sum(i.dial_delay_s() for i in self.impairments(a, b))
        return total_s

    def _refresh(self) -> None:
        """Links have changed: every connection is told."""
        for pipe in self._pipes:
            self._fit(pipe)
            pipe.wake()

    def _fit(self, pipe: Pipe) -> None:
        source, target = pipe.source, pipe.target
        pipe.impairments = self.impairments(source, target)
        pipe.delay_s = self.link(source, target).delay_s
        pipe.held = (
            self.link(source, target).cut
            or self._is_frozen(source)
            or self._is_frozen(target)
            or any(impairment.holds for impairment in pipe.impairments)
        )

    # -- discovery

    def announce(self, host: str, hint: PeerHint) -> None:
        self.announced[host] = hint
        for browser, hints in self._browsers:
            self._offer(browser, hints, host)

    def withdraw(self, host: str, hint: PeerHint) -> None:
        """Takes an announcement back, unless another one has taken its place."""
        if self.announced.get(host) is hint:
            del self.announced[host]

    def browse(self, host: str, hints: trio.MemorySendChannel[PeerHint]) -> None:
        self._browsers.append((host, hints))
        for other in list(self.announced):
            self._offer(host, hints, other)

    def requery(self, host: str, hints: trio.MemorySendChannel[PeerHint]) -> None:
        for other in list(self.announced):
            self._offer(host, hints, other)

    def stop_browsing(self, hints: trio.MemorySendChannel[PeerHint]) -> None:
        self._browsers = [(host, h) for host, h in self._browsers if h is not hints]

    def tell(self, browser: str, hint: PeerHint) -> bool:
        """Tells a host something by discovery, true or not.

        Returns:
            Whether it took it.
        """
        taken = False
        for host, hints in self._browsers:
            if host == browser:
                try:
                    hints.send_nowait(hint)
                    taken = True
                except (trio.WouldBlock, trio.BrokenResourceError):
                    self.trace.add(browser, "hint-dropped", "made up")
        return taken

    def _offer(self, browser: str, hints: trio.MemorySendChannel[PeerHint], host: str) -> None:
        if host == browser or not self.delivers(host, browser):
            return
        deaf = self.host(browser).deaf
        if deaf:
            for on_effect in deaf.values():
                on_effect()
            return
        try:
            hints.send_nowait(self.announced[host])
        except (trio.WouldBlock, trio.BrokenResourceError):
            self.trace.add(browser, "hint-dropped", host)


class SimTransport:
    """``overlay.ports.Transport`` on a simulated network."""

    def __init__(
        self,
        network: Network,
        host: str,
        leaf: bytes | None,
        issuer: bytes | None,
        roots: Sequence[bytes] | None,
    ) -> None:
        """A host's.

        Args:
            network: Where it is.
            host: Its address.
            leaf: Its certificate.
            issuer: That of the leaf's issuer.
            roots: What the far end's certificate must chain to; None takes anybody.
        """
        self._network = network
        self.host = host
        self._leaf = leaf
        self._issuer = issuer
        self._roots = None if roots is None else tuple(roots)

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
            mine = Listener(accept, nursery, self)
            for address in bound:
                self._network.listeners[address] = mine
            task_status.started(bound)
            try:
                await trio.sleep_forever()
            finally:
                for address in bound:
                    if self._network.listeners.get(address) is mine:
                        del self._network.listeners[address]

    async def dial(self, address: Address, peer_id: PeerId | None) -> SecureChannel:
        network = self._network
        network.trace.add(self.host, "dial", address.host)
        self._take_file()
        if network.blocked(self.host, address.host):
            await trio.sleep_forever()
        # TCP and TLS 1.3: two round trips before the first byte of ours.
        await trio.sleep(2 * network.round_trip_s(self.host, address.host))
        no_files = network.host(address.host).no_files
        for on_effect in no_files.values():
            on_effect()
        if no_files or network.blocked(self.host, address.host):
            await trio.sleep_forever()
        listener = network.listeners.get(address)
        if listener is None:
            raise ConnectionRefusedError(f"nobody listens on {address}")
        far = listener.transport
        self._check(far)
        if peer_id is not None and far._leaf and parse_leaf(far._leaf).peer_id != peer_id:
            raise IdentityMismatch("the far end is not the peer that was dialled")
        ours, theirs = network.connect(self.host, address.host)
        try:
            far._check(self)
        except SecurityError as error:
            # In TLS 1.3 too, the dialling end hears of it by its first read.
            network.trace.add(address.host, "handshake-refused", type(error).__name__)
            theirs.reset()
        else:
            channel = SecureChannel(
                channel=theirs,
                leaf=self._leaf,
                issuer=self._issuer,
                address=Address(network.seen_as(self.host), network.any_port()),
            )
            listener.nursery.start_soon(self._accept, listener.accept, channel)
        return SecureChannel(channel=ours, leaf=far._leaf, issuer=far._issuer, address=address)

    def show(self, leaf: bytes, issuer: bytes, roots: Sequence[bytes]) -> None:
        self._leaf, self._issuer, self._roots = leaf, issuer, tuple(roots)

    def _check(self, far: SimTransport) -> None:
        """Finds the far end's certificate chained to our root; a client has none.

        Raises:
            SecurityError: When it is not.
        """
        if self._roots is not None and far._leaf is not None:
            check_chain(far._leaf, far._issuer, self._roots)

    def _take_file(self) -> None:
        no_files = self._network.host(self.host).no_files
        for on_effect in no_files.values():
            on_effect()
        if no_files:
            raise OSError(errno.EMFILE, "too many open files (simulated)")

    async def _accept(self, accept: Accept, channel: SecureChannel) -> None:
        try:
            await accept(channel)
        except Exception as error:  # noqa: BLE001 - the contract: a failed accept ends its channel
            self._network.trace.add(self.host, "accept-failed", type(error).__name__)
        finally:
            with trio.CancelScope(shield=True):
                await channel.channel.aclose()


@functools.lru_cache(CHAINS_MAX)
def check_chain(leaf: bytes, issuer: bytes | None, roots: tuple[bytes, ...]) -> None:
    """Finds a certificate signed by an issuer that a root has signed; dates are not judged.

    Raises:
        SecurityError: When it is not.
    """
    if issuer is None:
        raise UntrustedIssuer("a certificate without its issuer's")
    verify_issued(leaf, read_issuer(issuer, roots))


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
            announced = PeerHint(peer_id=peer_id, addresses=tuple(addresses))
            self._network.announce(self._host, announced)
            self._network.browse(self._host, hints)
            task_status.started()
            try:
                while True:
                    await trio.sleep(self._requery_s)
                    self._network.requery(self._host, hints)
            finally:
                self._network.withdraw(self._host, announced)
                self._network.stop_browsing(hints)
