"""Listens for HTTP clients: TCP, or TLS with a certificate that may be replaced meanwhile."""

from __future__ import annotations

import ipaddress
import logging
import ssl
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import trio

from overlay.http.connection import App, HttpConnection
from overlay.http.limits import HttpLimits
from overlay.http.refusal import Stamp
from overlay.ports import Clock, Entropy

log = logging.getLogger(__name__)

HANDSHAKE_S = 10.0
CLOSE_S = 2.0
"""For TLS's close_notify, which tells the client that an answer without a length is whole."""


async def serve_http(
    app: App,
    listeners: Sequence[trio.SocketListener],
    *,
    clock: Clock,
    entropy: Entropy,
    tls: Callable[[], ssl.SSLContext] | None = None,
    limits: HttpLimits | None = None,
    draining: Callable[[], bool] = lambda: False,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves an ASGI application until cancelled.

    Args:
        app: Gets ``http`` scopes only.
        listeners: Open sockets; closed with the server.
        clock: For the Date of responses.
        entropy: For the ids of requests that never reach the application.
        tls: Gives the server context of each new connection; None for plain HTTP.
        limits: What clients can hold.
        draining: Whether connections should end with the answer under way.
        task_status: Started when connections are taken.
    """
    bounds = limits or HttpLimits()
    places = Places(bounds)
    stamp = Stamp(clock, entropy)

    async def handle(stream: trio.SocketStream) -> None:
        try:
            client = _client_of(stream)
            if client is not None:
                with places.taken(client[0]) as is_free:
                    if is_free:
                        context = None if tls is None else tls()
                        await _serve(app, stream, context, bounds, stamp, client, draining)
        except Exception:
            log.exception("an HTTP connection failed")
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, handle, listeners)
        task_status.started()


class Places:
    """Who holds how many connections."""

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self._held: Counter[str] = Counter()

    @contextmanager
    def taken(self, host: str) -> Iterator[bool]:
        """Takes a place for a client inside the block; gives whether there was one."""
        own = ipaddress.ip_address(host).is_loopback
        most = self._limits.connections if own else self._limits.connections_per_address
        if self._held.total() >= self._limits.connections or self._held[host] >= most:
            log.info("closed an HTTP connection of %s: too many are open", host)
            yield False
            return
        self._held[host] += 1
        try:
            yield True
        finally:
            self._held[host] -= 1
            if not self._held[host]:
                del self._held[host]


def _client_of(stream: trio.SocketStream) -> tuple[str, int] | None:
    """Who is at the other end; None where it has gone already."""
    try:
        host, port = stream.socket.getpeername()[:2]
    except OSError:
        return None
    return str(host), int(port)


async def _serve(
    app: App,
    stream: trio.SocketStream,
    tls: ssl.SSLContext | None,
    limits: HttpLimits,
    stamp: Stamp,
    client: tuple[str, int],
    draining: Callable[[], bool],
) -> None:
    secured: trio.abc.Stream = stream
    if tls is not None:
        wrapped = trio.SSLStream(stream, tls, server_side=True)
        try:
            with trio.fail_after(HANDSHAKE_S):
                await wrapped.do_handshake()
        except (trio.TooSlowError, trio.BrokenResourceError):
            return
        secured = wrapped
    connection = HttpConnection(
        app,
        secured,
        limits,
        stamp=stamp,
        client=client,
        scheme="http" if tls is None else "https",
        draining=draining,
    )
    await connection.run()
    with trio.move_on_after(CLOSE_S):
        await secured.aclose()
