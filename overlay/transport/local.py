"""The Unix socket of a host: whoever may open the file is the host's owner. No TLS, no certificate.

The file has mode 0600 from the moment it exists. One that was left behind is removed, one that
somebody listens on is not.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from overlay.address import Address
from overlay.errors import HomeError, OverlayError
from overlay.home import SOCKET_PATH_BYTES_MAX
from overlay.ports import SecureChannel
from overlay.transport.frame import GoawayCode, encode_goaway

log = logging.getLogger(__name__)

RECEIVE_BYTES: Final = 1 << 16
BACKLOG: Final = 64
QUEUE_S: Final = 2.0
QUEUE_POLL_S: Final = 0.02
CONNECTIONS_MAX: Final = 64
TURN_AWAY_S: Final = 0.5
"""For one program too many to say its HELLO and hear why it is not served."""

FULL: Final = f"{CONNECTIONS_MAX} programs of this host are connected to its peer: end one of them"

HERE: Final = Address("127.0.0.1", 0)
"""Stands for the far end of a Unix socket."""


class StreamChannel:
    """``overlay.ports.ByteChannel`` over any trio stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def receive_some(self) -> bytes:
        return bytes(await self._stream.receive_some(RECEIVE_BYTES))

    async def aclose(self) -> None:
        await self._stream.aclose()


async def listen_local(
    path: Path,
    accept: Callable[[SecureChannel], Awaitable[None]],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Accepts until cancelled; the file is there while it does.

    Args:
        path: Where the socket is to be.
        accept: Run for each connection, in a task of its own; what it raises ends that one only.
        task_status: Started when connections are taken.

    Raises:
        HomeError: When another process listens there, or the path cannot be used.
    """
    listener = await _bind(path)
    places = trio.Semaphore(CONNECTIONS_MAX)

    async def handle(stream: trio.SocketStream) -> None:
        try:
            if not places.value:
                await _turn_away(stream)
                return
            async with places:
                await accept(_channel(stream))
        except OverlayError as error:
            log.info("a local connection ended: %s", error)
        except Exception:
            log.exception("a local connection failed")
        finally:
            await trio.aclose_forcefully(stream)

    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, handle, [listener])
            task_status.started()
    finally:
        _remove(path)


async def dial_local(path: Path) -> SecureChannel:
    """Connects to the peer of this host.

    Raises:
        OSError: When none listens there, or its queue stays full.
    """
    given_up_s = trio.current_time() + QUEUE_S
    while True:
        stream = await trio.open_unix_socket(path)
        try:
            stream.socket.getpeername()
        except OSError:
            # Linux says EAGAIN where the listener's queue is full, which trio takes for success.
            await trio.aclose_forcefully(stream)
        else:
            return _channel(stream)
        if trio.current_time() >= given_up_s:
            raise OSError(errno.EAGAIN, "too many programs are connecting to it")
        await trio.sleep(QUEUE_POLL_S)


async def _turn_away(stream: trio.SocketStream) -> None:
    """Says why, at once: who waits for a place could not be told from a peer that hangs."""
    with trio.move_on_after(TURN_AWAY_S), suppress(trio.BrokenResourceError):
        await stream.receive_some(RECEIVE_BYTES)
        await stream.send_all(encode_goaway(GoawayCode.REFUSED, 0, FULL))


def _channel(stream: trio.SocketStream) -> SecureChannel:
    return SecureChannel(channel=StreamChannel(stream), leaf=None, issuer=None, address=HERE)


async def _bind(path: Path) -> trio.SocketListener:
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise HomeError(f"{path} is too long for a socket: choose a home folder nearer to the root")
    await _remove_stale(path)
    listening = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        await listening.bind(str(path))
    except OSError as error:
        listening.close()
        raise HomeError(f"cannot listen on {path}: {error.strerror}") from error
    finally:
        os.umask(before)
    listening.listen(BACKLOG)
    return trio.SocketListener(listening)


async def _remove_stale(path: Path) -> None:
    """Removes a socket that nobody listens on. Raises HomeError when somebody does."""
    _check_socket(path)
    try:
        stream = await trio.open_unix_socket(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        _remove(path)
        return
    await stream.aclose()
    raise HomeError(f"a peer is already running in {path.parent}")


def _check_socket(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise HomeError(f"{path} is in the way: it is not a socket")


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
