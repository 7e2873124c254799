"""TCP sockets: bound, connected and named the way the overlay wants them."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from contextlib import suppress

import trio

from overlay.address import SCOPE, Address

BACKLOG = 128
USER_TIMEOUT_MS = 10_000
"""Unacknowledged data for so long ends the connection in the kernel too (Linux)."""

CONNECT_S = 5.0

ADVICE = {
    errno.EADDRINUSE: "; take another port (--port, --enrol-port), or stop what uses it",
    errno.EADDRNOTAVAIL: "; it is none of this host's: name one that is (--listen, --interface)",
    errno.EACCES: "; take a port above 1023 (--port, --enrol-port)",
}
"""What to do about a socket that cannot be had."""


async def open_listeners(addresses: Sequence[Address]) -> list[trio.SocketListener]:
    """Listens on every address. Raises OSError that names the one that cannot be had."""
    listeners: list[trio.SocketListener] = []
    try:
        for address in addresses:
            listener = await _open_listener(address)
            listeners.append(listener)
    except BaseException:
        for listener in listeners:
            listener.socket.close()
        raise
    return listeners


async def _open_listener(address: Address) -> trio.SocketListener:
    family, where = await _resolve(address)
    listening = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        await listening.bind(where)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        words = f"cannot listen on {address}: {error.strerror}{ADVICE.get(error.errno or 0, '')}"
        raise OSError(error.errno, words) from error
    return trio.SocketListener(listening)


def bound_address(listener: trio.SocketListener, asked: Address) -> Address:
    """Where a listener really listens."""
    return Address(asked.host, listener.socket.getsockname()[1])


async def connect(address: Address, source: str | None) -> trio.SocketStream:
    """Connects, from ``source`` where that is of the same family.

    Raises:
        OSError: When nobody answers there, or not in time.
    """
    family, where = await _resolve(address)
    dialling = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        if source is not None:
            source_family, from_where = await _resolve(Address(source, 0))
            if source_family == family:
                await dialling.bind(from_where)
        with trio.fail_after(CONNECT_S):
            await dialling.connect(where)
        return prepare(trio.SocketStream(dialling))
    except BaseException as error:
        dialling.close()
        if isinstance(error, trio.TooSlowError):
            raise TimeoutError(f"no answer from {address} within {CONNECT_S:g} s") from error
        raise


def prepare(stream: trio.SocketStream) -> trio.SocketStream:
    """Options of a connected socket; trio has set TCP_NODELAY."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        with suppress(OSError):
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    return stream


def far_address(stream: trio.SocketStream) -> Address:
    """Who is at the other end. Raises OSError when it has gone already."""
    where = stream.socket.getpeername()
    host, port = where[0], where[1]
    if len(where) == 4 and where[3]:
        name = socket.if_indextoname(where[3])
        host = f"{host.partition('%')[0]}%{name if SCOPE.fullmatch(name) else where[3]}"
    return Address(host, port)


async def _resolve(address: Address) -> tuple[int, tuple[str, int] | tuple[str, int, int, int]]:
    """The socket form; numbers only, so nothing is ever looked up."""
    found = await trio.socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
    )
    family, _, _, _, where = found[0]
    return family, where  # type: ignore[return-value]  # AF_INET and AF_INET6 only
