"""The real transport: TCP and mutual TLS 1.3 between hosts, with a face for clients.

Peers and clients come to the same port. A ClientHello that offers the client protocol, and nothing
else, gets a context without client certificates, and what comes of it has no leaf; everything else,
what is not understood included, gets the context that demands one.

Before anybody has proved anything, handshakes are bounded in number, per address and in time.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import trio

from overlay.address import Address
from overlay.errors import OverlayError
from overlay.ports import SecureChannel
from overlay.transport.alpn import offered_protocols, record_bytes
from overlay.transport.sockets import (
    bound_address,
    connect,
    far_address,
    open_listeners,
    prepare,
)
from overlay.transport.tls import (
    CLIENT_ALPN,
    PEER_ALPN,
    RECEIVE_BYTES,
    Credentials,
    TlsChannel,
    accepting_context,
    dialling_context,
)
from security.errors import SecurityError
from security.peer_id import PeerId

log = logging.getLogger(__name__)

Accept = Callable[[SecureChannel], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsLimits:
    """What strangers can hold.

    Args:
        handshake_s: From accept to the end of the handshake.
        handshakes: Under way at a time; one costs about 1.5 ms of CPU and 30 KB.
        handshakes_per_address: Of those, from one address.
        connections: Accepted ones that stand.
        clients: Of those, without a certificate. Each can leave 2 MiB unfinished before it shows
            a token (``Limits.for_client``): half a GiB of all.
        clients_per_address: Of those, from one address: no host can keep all others out. An
            application with a connection for each of its workers needs one for each core or so.
    """

    handshake_s: float = 5.0
    handshakes: int = 64
    handshakes_per_address: int = 16
    connections: int = 1024
    clients: int = 256
    clients_per_address: int = 32


@dataclass(slots=True)
class TlsCounters:
    """What became of connections that reached us."""

    accepted: int = 0
    clients: int = 0
    refused: int = 0
    failed: int = 0


class TlsTransport:
    """``overlay.ports.Transport`` for real networks."""

    def __init__(
        self,
        credentials: Credentials,
        *,
        source_address: str | None = None,
        limits: TlsLimits | None = None,
    ) -> None:
        """Prepares the TLS contexts.

        Args:
            credentials: Of this host.
            source_address: Local address of outgoing connections; None: the system chooses.
            limits: What strangers can hold.
        """
        self._limits = limits or TlsLimits()
        self._source = source_address
        self._make_contexts(credentials)
        self._handshakes: Counter[str] = Counter()
        self._clients_at: Counter[str] = Counter()
        self._open = 0
        self.counters = TlsCounters()

    def show(self, leaf: bytes, issuer: bytes, roots: Sequence[bytes]) -> None:
        own = replace(self._credentials, leaf=leaf, issuer=issuer, roots=tuple(roots))
        self._make_contexts(own)

    def _make_contexts(self, credentials: Credentials) -> None:
        """New contexts; handshakes and connections under way keep the ones that they have."""
        roots = credentials.roots
        self._peers = accepting_context(credentials, PEER_ALPN, mutual=True)
        self._clients = accepting_context(credentials, CLIENT_ALPN, mutual=False)
        self._named = dialling_context(roots, PEER_ALPN, credentials=credentials, named=True)
        self._unnamed = dialling_context(roots, PEER_ALPN, credentials=credentials, named=False)
        self._credentials = credentials

    def counts(self) -> dict[str, int]:
        """Connections that reached us, by what became of them."""
        counters = self.counters
        return {
            "peer": counters.accepted - counters.clients,
            "client": counters.clients,
            "refused": counters.refused,
            "failed": counters.failed,
        }

    async def listen(
        self,
        addresses: Sequence[Address],
        accept: Accept,
        *,
        task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        listeners = await open_listeners(addresses)

        async def handle(stream: trio.SocketStream) -> None:
            try:
                await self._admit(prepare(stream), accept)
            finally:
                await trio.aclose_forcefully(stream)

        bound = tuple(map(bound_address, listeners, addresses))
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, handle, listeners)
            task_status.started(bound)

    async def dial(self, address: Address, peer_id: PeerId | None) -> SecureChannel:
        stream = await connect(address, self._source)
        context = self._unnamed if peer_id is None else self._named
        channel = TlsChannel(stream, context, server_side=False, peer_id=peer_id)
        return await secure(channel, PEER_ALPN, address, self._limits.handshake_s)

    async def _admit(self, stream: trio.SocketStream, accept: Accept) -> None:
        """From a stranger to a channel, and its accept."""
        try:
            address = far_address(stream)
        except OSError:
            self.counters.failed += 1
            return
        host = address.host
        if (
            self._handshakes.total() >= self._limits.handshakes
            or self._handshakes[host] >= self._limits.handshakes_per_address
            or self._open >= self._limits.connections
        ):
            self.counters.refused += 1
            return
        self._handshakes[host] += 1
        try:
            channel = await self._shake(stream, address)
        except (SecurityError, trio.BrokenResourceError, OSError) as error:
            self.counters.failed += 1
            # Not louder: a stranger could fill the log. The counter is in /metrics.
            log.debug("no handshake with %s: %s", address, error)
            return
        finally:
            give_back(self._handshakes, host)
        await self._keep(channel, accept)

    async def _shake(self, stream: trio.SocketStream, address: Address) -> SecureChannel:
        deadline_s = trio.current_time() + self._limits.handshake_s
        record = b""
        with trio.move_on_at(deadline_s):
            while len(record) < record_bytes(record):
                data = await stream.receive_some(RECEIVE_BYTES)
                if not data:
                    raise trio.BrokenResourceError("hung up")
                record += data
        client = offered_protocols(record) == (CLIENT_ALPN,)
        context = self._clients if client else self._peers
        channel = TlsChannel(stream, context, server_side=True, received=record)
        alpn = CLIENT_ALPN if client else PEER_ALPN
        return await secure(channel, alpn, address, deadline_s - trio.current_time())

    async def _keep(self, channel: SecureChannel, accept: Accept) -> None:
        client, host = channel.leaf is None, channel.address.host
        if client and (
            self._clients_at.total() >= self._limits.clients
            or self._clients_at[host] >= self._limits.clients_per_address
        ):
            self.counters.refused += 1
            await channel.channel.aclose()
            return
        self.counters.accepted += 1
        self.counters.clients += client
        self._open += 1
        if client:
            self._clients_at[host] += 1
        try:
            await accept(channel)
        except (SecurityError, OverlayError) as error:
            self.counters.failed += 1
            log.info("connection from %s ended: %s: %s", channel.address, kind(error), error)
        except Exception:
            self.counters.failed += 1
            log.exception("connection from %s failed", channel.address)
        finally:
            self._open -= 1
            if client:
                give_back(self._clients_at, host)
            with trio.CancelScope(shield=True):
                await channel.channel.aclose()


def give_back(counts: Counter[str], host: str) -> None:
    """One place of ``host`` is free again; a host without any is forgotten."""
    counts[host] -= 1
    if not counts[host]:
        del counts[host]


def kind(error: BaseException) -> str:
    """The cause by its class."""
    return type(error).__name__


async def secure(
    channel: TlsChannel, alpn: str, address: Address, timeout_s: float
) -> SecureChannel:
    """Completes a handshake; a channel whose handshake fails is closed.

    Raises:
        SecurityError: When the far side's certificate is refused.
        trio.BrokenResourceError: When it does not speak this protocol, or refuses ours.
        TimeoutError: When it takes too long.
    """
    try:
        with trio.fail_after(max(0.0, timeout_s)):
            await channel.handshake(alpn)
        leaf = channel.leaf
        issuer = None if leaf is None else channel.issuer
        return SecureChannel(channel=channel, leaf=leaf, issuer=issuer, address=address)
    except BaseException as error:
        with trio.CancelScope(shield=True):
            await channel.aclose()
        if isinstance(error, trio.TooSlowError):
            raise TimeoutError(f"no TLS handshake with {address} in time") from error
        raise
