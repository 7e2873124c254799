"""From a secure channel to a connection: judge the certificate, exchange HELLO, agree.

Nothing of the far side is believed before its leaf is judged, and the connection is not up before
its HELLO has come: in TLS 1.3 a refused client learns of it only by its first read. The whole
takes at most ``Limits.hello_s``, and at most one small frame is read.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec
import trio

from overlay.errors import Deadline, NotAdmitted, OverlayError, PeerGone, ProtocolError
from overlay.ports import ByteChannel, Clock, Entropy, SecureChannel
from overlay.transport import frame
from overlay.transport.connection import Connection
from overlay.transport.hello import (
    HELLO_BYTES_MAX,
    Hello,
    Role,
    common_version,
    decode_hello,
    encode_hello,
)
from overlay.transport.limits import Limits
from overlay.transport.remote import Remote
from security.errors import SecurityError
from security.peer_id import PeerId

CLIENT_PROTOCOLS: Final = "/rhizome/client/"
"""A client without a certificate may open protocols of this prefix only."""

ALL_PROTOCOLS: Final = "/"

FAREWELL_S: Final = 0.5

Judge = Callable[[bytes, PeerId | None], PeerId]
"""Raises a ``SecurityError`` unless the leaf is admitted and, where named, that peer's."""


async def establish(
    channel: SecureChannel,
    *,
    ours: Hello,
    judge: Judge,
    expected: PeerId | None,
    clock: Clock,
    entropy: Entropy,
    limits: Limits,
    allowed: str | None = None,
) -> Connection:
    """Makes a connection of a channel; a channel that does not become one is closed.

    Args:
        channel: As a transport gives it.
        ours: Our HELLO.
        judge: Decides about the far side's leaf.
        expected: The peer that was dialled, if any.
        clock: Of this host.
        entropy: Of this host.
        limits: What is bounded.
        allowed: Prefix of the protocols that the far side may open. None: all for a peer, those of
            ``CLIENT_PROTOCOLS`` for a client. A client gets smaller ``limits`` then, too
            (``Limits.for_client``): who may do more is known in another way.

    Raises:
        SecurityError: When the far side's leaf is refused.
        ProtocolError: When it breaks the rules of HELLO, or is of another overlay.
        VersionMismatch: When there is no common version.
        PeerGone: When the channel breaks.
        NotAdmitted: When the far side refuses us; it says why.
        Deadline: When its HELLO does not come in time.
    """
    if channel.leaf is None and allowed is None and ours.role is Role.PEER:
        limits = limits.for_client()
        ours = msgspec.structs.replace(ours, windows=limits.windows)
    try:
        with trio.fail_after(limits.hello_s):
            peer_id = None if channel.leaf is None else judge(channel.leaf, expected)
            await channel.channel.send_all(encode_hello(ours))
            theirs, rest = await _receive_hello(channel.channel)
            common_version(ours, theirs)
            _check(ours, theirs, peer_id)
    except BaseException as error:
        with trio.CancelScope(shield=True):
            await _refuse(channel.channel, error)
        if isinstance(error, trio.TooSlowError):
            raise Deadline(f"no HELLO within {limits.hello_s:g} s") from error
        if isinstance(error, trio.BrokenResourceError | trio.ClosedResourceError | OSError):
            raise PeerGone(f"connection lost: {error.__cause__ or error}") from error
        raise
    if allowed is None:
        allowed = CLIENT_PROTOCOLS if theirs.role is Role.CLIENT else ALL_PROTOCOLS
    remote = Remote(
        peer_id=peer_id,
        hello=theirs,
        leaf=channel.leaf,
        issuer=channel.issuer,
        address=channel.address,
        clock_ahead_s=theirs.unix_s - clock.unix_s(),
    )
    return Connection(
        channel.channel,
        remote,
        clock=clock,
        entropy=entropy,
        limits=limits,
        allowed=allowed,
        received=rest,
    )


async def _receive_hello(channel: ByteChannel) -> tuple[Hello, bytes]:
    """The far side's HELLO, and what came behind it."""
    data = b""
    while True:
        if len(data) >= frame.HEADER_BYTES:
            size, stream, kind, flags = frame.HEADER.unpack_from(data)
            known = kind in {frame.HELLO, frame.GOAWAY} and not stream and not flags
            if not known or size > HELLO_BYTES_MAX:
                raise ProtocolError("the far side does not speak this protocol")
            end = frame.HEADER_BYTES + size
            if len(data) >= end:
                payload = data[frame.HEADER_BYTES : end]
                if kind == frame.GOAWAY:
                    raise NotAdmitted(frame.decode_goaway(payload).reason)
                return decode_hello(payload), data[end:]
        more = await channel.receive_some()
        if not more:
            raise PeerGone("the far side hung up before its HELLO")
        data += more


def _check(ours: Hello, theirs: Hello, peer_id: PeerId | None) -> None:
    """What a HELLO must say, given what the certificate has shown."""
    if theirs.role is Role.CLIENT:
        if ours.role is Role.CLIENT or peer_id is not None or theirs.peer_id is not None:
            raise ProtocolError("a client where a peer should be")
    elif peer_id is None:
        if ours.role is not Role.CLIENT:
            raise ProtocolError("a peer without a certificate")
    elif theirs.peer_id != peer_id:
        raise ProtocolError("the HELLO names another peer than the certificate")
    peers = ours.role is theirs.role
    unknown = not peers and "" in {ours.overlay_id, theirs.overlay_id}
    if ours.overlay_id != theirs.overlay_id and not unknown:
        raise ProtocolError("the far side belongs to another overlay")


async def _refuse(channel: ByteChannel, error: BaseException) -> None:
    """Tells the far side why, where it can still be told, and closes."""
    with trio.move_on_after(FAREWELL_S):
        if isinstance(error, SecurityError | OverlayError) and not isinstance(error, PeerGone):
            reason = type(error).__name__ if isinstance(error, SecurityError) else str(error)
            goaway = frame.encode_goaway(frame.GoawayCode.REFUSED, 0, reason)
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError):
                await channel.send_all(goaway)
    with trio.move_on_after(FAREWELL_S):
        await channel.aclose()
