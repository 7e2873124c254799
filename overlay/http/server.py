"""Listens for HTTP clients: TCP, or TLS with the operator's own certificate."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Sequence

import trio

from overlay.http.connection import App, HttpConnection
from overlay.http.limits import HttpLimits

log = logging.getLogger(__name__)

HANDSHAKE_S = 10.0
CLOSE_S = 2.0
"""For TLS's close_notify, which tells the client that an answer without a length is whole."""


async def serve_http(
    app: App,
    listeners: Sequence[trio.SocketListener],
    *,
    tls: ssl.SSLContext | None = None,
    limits: HttpLimits | None = None,
    draining: Callable[[], bool] = lambda: False,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves an ASGI application until cancelled.

    Args:
        app: Gets ``http`` scopes only.
        listeners: Open sockets; closed with the server.
        tls: Server context, None for plain HTTP.
        limits: What clients can hold.
        draining: Whether connections should end with the answer under way.
        task_status: Started when connections are taken.
    """
    bounds = limits or HttpLimits()
    slots = trio.Semaphore(bounds.connections)

    async def handle(stream: trio.SocketStream) -> None:
        try:
            slots.acquire_nowait()
        except trio.WouldBlock:
            await trio.aclose_forcefully(stream)
            return
        try:
            await _serve(app, stream, tls, bounds, draining)
        except Exception:
            log.exception("an HTTP connection failed")
        finally:
            slots.release()
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, handle, listeners)
        task_status.started()


async def _serve(
    app: App,
    stream: trio.SocketStream,
    tls: ssl.SSLContext | None,
    limits: HttpLimits,
    draining: Callable[[], bool],
) -> None:
    try:
        peer = stream.socket.getpeername()
    except OSError:
        return
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
        client=(str(peer[0]), int(peer[1])),
        scheme="http" if tls is None else "https",
        draining=draining,
    )
    await connection.run()
    with trio.move_on_after(CLOSE_S):
        await secured.aclose()
