"""Joining and renewing: one request and one answer, from a host that shows no certificate.

A listener of its own, apart from the overlay's port, so that who has no certificate never meets the
code that trusts one. The joiner trusts nothing but the root in its ticket; a host whose certificate
has ended asks here as well. What the bytes mean is ``security.enrolment``'s and
``security.renewal``'s; here they are bounded in size, time and number.

On the wire, after the handshake: a status byte (0 in requests), a length u32, the bytes. The answer
has status 0, or 1 and ``code: message`` as UTF-8.
"""

from __future__ import annotations

import logging
import re
import ssl
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from overlay.address import Address
from overlay.errors import Deadline, OverlayError, PeerGone, ProtocolError, RequestError
from overlay.ports import ByteChannel
from overlay.transport.sockets import (
    bound_address,
    connect,
    far_address,
    open_listeners,
    prepare,
)
from overlay.transport.tcp import give_back, secure
from overlay.transport.tls import (
    JOIN_ALPN,
    Credentials,
    TlsChannel,
    accepting_context,
    dialling_context,
    unjudged_context,
)
from security.errors import SecurityError

log = logging.getLogger(__name__)

MESSAGE_BYTES_MAX: Final = 1 << 16
REFUSAL_CHARS_MAX: Final = 512
STATUS_OK: Final = 0
STATUS_REFUSED: Final = 1

_HEADER = struct.Struct(">BI")

Handle = Callable[[bytes, Address], Awaitable[bytes]]
"""Answers one request. The words of a ``SecurityError`` or ``OverlayError`` reach the joiner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentLimits:
    """What a stranger can hold: at most so many connections, each for so long.

    Args:
        exchange_s: From accept to the answer.
        connections: At a time.
        connections_per_address: Of those, from one address; a host joins by one.
    """

    exchange_s: float = 10.0
    connections: int = 32
    connections_per_address: int = 8


async def serve_enrolment(
    addresses: Sequence[Address],
    handle: Handle,
    *,
    credentials: Callable[[], Credentials],
    limits: EnrolmentLimits | None = None,
    task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answers joiners until cancelled.

    Args:
        addresses: Where to listen.
        handle: Answers one request; run once per connection.
        credentials: Of this host now, whose chain ends in the root that tickets carry.
        limits: What strangers can hold.
        task_status: Started with the bound addresses.

    Raises:
        OSError: When an address cannot be listened on.
    """
    bounds = limits or EnrolmentLimits()
    shown = credentials()
    context = accepting_context(shown, JOIN_ALPN, mutual=False)
    listeners = await open_listeners(addresses)
    taken: Counter[str] = Counter()

    def present_context() -> ssl.SSLContext:
        nonlocal shown, context
        if (now := credentials()) != shown:
            shown, context = now, accepting_context(now, JOIN_ALPN, mutual=False)
        return context

    async def serve(stream: trio.SocketStream) -> None:
        try:
            address = far_address(stream)
            host = address.host
            if taken.total() < bounds.connections and taken[host] < bounds.connections_per_address:
                taken[host] += 1
                try:
                    with trio.move_on_after(bounds.exchange_s):
                        channel = TlsChannel(prepare(stream), present_context(), server_side=True)
                        await secure(channel, JOIN_ALPN, address, bounds.exchange_s)
                        await answer_one(channel, address, handle)
                finally:
                    give_back(taken, host)
        except (SecurityError, OverlayError, trio.BrokenResourceError, OSError) as error:
            log.info("an enrolment connection ended: %s", error)
        except Exception:
            log.exception("an enrolment failed")
        finally:
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, serve, listeners)
        task_status.started(tuple(map(bound_address, listeners, addresses)))


async def answer_one(channel: ByteChannel, address: Address, handle: Handle) -> None:
    """Serves the one exchange of a connection.

    Raises:
        ProtocolError, PeerGone: When the far side does not keep to its form, or hangs up.
        trio.BrokenResourceError: When the connection breaks.
    """
    status, request = await _receive(channel)
    if status != STATUS_OK:
        raise ProtocolError("a request to join with the status of an answer")
    try:
        status, answer = STATUS_OK, await handle(request, address)
    except (SecurityError, OverlayError) as error:
        log.warning("refused to enrol %s: %s: %s", address, type(error).__name__, error)
        status, answer = STATUS_REFUSED, _words(error)
    await channel.send_all(_HEADER.pack(status, len(answer)) + answer)
    await channel.aclose()


def _words(error: Exception) -> bytes:
    code = re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).lower()
    return f"{code}: {error}"[:REFUSAL_CHARS_MAX].encode()


async def enrol(
    address: Address,
    roots: Sequence[bytes] | None,
    request: bytes,
    *,
    timeout_s: float,
    source: str | None = None,
) -> bytes:
    """Sends a request to an issuer and gives its answer.

    Args:
        address: Of the issuer's enrolment listener.
        roots: The root certificates (DER) that are believed; None believes anybody, for answers
            that prove themselves.
        request: At most 64 KiB.
        timeout_s: For the whole exchange.
        source: Local address to connect from.

    Raises:
        SecurityError: When the far side is not under these roots.
        RequestError: When the issuer refuses; ``code`` names the cause (``ticket_used``).
        Deadline: When it takes too long.
        PeerGone: When there is no connection to be had, or it breaks.
        ProtocolError: When the far side's answer is malformed.
    """
    if roots is None:
        context = unjudged_context(JOIN_ALPN)
    else:
        context = dialling_context(roots, JOIN_ALPN, credentials=None, named=False)
    try:
        with trio.fail_after(timeout_s):
            channel = TlsChannel(await connect(address, source), context, server_side=False)
            await secure(channel, JOIN_ALPN, address, timeout_s)
            return await ask_one(channel, request)
    except (trio.TooSlowError, TimeoutError) as error:
        raise Deadline(f"no answer from the issuer at {address} in time") from error
    except (trio.BrokenResourceError, OSError) as error:
        raise PeerGone(f"no connection to the issuer at {address}: {error}") from error


async def ask_one(channel: ByteChannel, request: bytes) -> bytes:
    """Makes the one exchange of a connection, and closes it.

    Raises:
        RequestError: When the issuer refuses; ``code`` names the cause.
        PeerGone, ProtocolError: When the far side hangs up, or does not keep to the form.
        trio.BrokenResourceError: When the connection breaks.
    """
    try:
        await channel.send_all(_HEADER.pack(STATUS_OK, len(request)) + request)
        status, answer = await _receive(channel)
    finally:
        with trio.CancelScope(shield=True):
            await channel.aclose()
    if status == STATUS_OK:
        return answer
    code, _, message = answer.decode(errors="replace")[:REFUSAL_CHARS_MAX].partition(": ")
    words = "".join(c if c.isprintable() else "?" for c in message)
    raise RequestError(words or "the issuer refuses", code=code or "refused", status=403)


class TlsEnrolment:
    """``overlay.ports.Enrolment`` for real networks."""

    def __init__(self, *, source_address: str | None = None, timeout_s: float = 10.0) -> None:
        self._source = source_address
        self._timeout_s = timeout_s

    async def ask(self, address: Address, request: bytes, roots: Sequence[bytes]) -> bytes:
        return await self._enrol(address, request, roots)

    async def ask_anybody(self, address: Address, request: bytes) -> bytes:
        return await self._enrol(address, request, None)

    async def _enrol(
        self, address: Address, request: bytes, roots: Sequence[bytes] | None
    ) -> bytes:
        return await enrol(address, roots, request, timeout_s=self._timeout_s, source=self._source)


async def _receive(channel: ByteChannel) -> tuple[int, bytes]:
    """One message. Raises ProtocolError, before it reads one that is too large."""
    data = await _read(channel, b"", _HEADER.size)
    status, size = _HEADER.unpack_from(data)
    if size > MESSAGE_BYTES_MAX or status not in {STATUS_OK, STATUS_REFUSED}:
        raise ProtocolError("malformed enrolment message")
    data = await _read(channel, data, _HEADER.size + size)
    if len(data) > _HEADER.size + size:
        raise ProtocolError("more than one enrolment message")
    return status, data[_HEADER.size :]


async def _read(channel: ByteChannel, data: bytes, size: int) -> bytes:
    while len(data) < size:
        more = await channel.receive_some()
        if not more:
            raise PeerGone("the far side hung up")
        data += more
    return data
