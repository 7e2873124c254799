"""TLS 1.3 over a byte stream, driven through memory BIOs. OpenSSL alone decides the chain.

Rules, each of them found by trying what happens without it:

1. TLS 1.3 only, no session tickets: a resumed session would accept an expired certificate.
2. ALPN is compared in code: OpenSSL lets a mismatch pass and selects nothing.
3. The alert that refuses a certificate is flushed, so that the far side learns the reason.
4. An end without close_notify is a broken connection, not an end.
5. Bytes are encrypted and handed to the socket by one task; a send that is cancelled in the middle
   has broken the channel for good.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, cast

import trio

from security.certificate import dns_name_of
from security.errors import (
    Expired,
    IdentityMismatch,
    NotYetValid,
    SecurityError,
    UntrustedIssuer,
)
from security.keys import HostKeys
from security.peer_id import PeerId

PEER_ALPN: Final = "rhizome-peer/1"
CLIENT_ALPN: Final = "rhizome-client/1"
JOIN_ALPN: Final = "rhizome-join/1"

RECEIVE_BYTES: Final = 1 << 18
"""Read from the socket at a time; bounds what is decrypted and not yet taken."""

GOODBYE_S: Final = 0.5

_VERIFY_ERRORS: Final[dict[int, type[SecurityError]]] = {
    9: NotYetValid,
    10: Expired,
    62: IdentityMismatch,
}
"""X509_V_ERR_CERT_NOT_YET_VALID, _CERT_HAS_EXPIRED and _HOSTNAME_MISMATCH of OpenSSL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a host shows in handshakes, and what it holds others against. All DER."""

    keys: HostKeys
    leaf: bytes
    issuer: bytes
    roots: tuple[bytes, ...]


def accepting_context(credentials: Credentials, alpn: str, *, mutual: bool) -> ssl.SSLContext:
    """For the listening side; ``mutual`` asks for the far side's certificate and demands it."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, credentials.roots, alpn)
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_REQUIRED if mutual else ssl.CERT_NONE
    _load(context, credentials)
    return context


def dialling_context(
    roots: Sequence[bytes], alpn: str, *, credentials: Credentials | None, named: bool
) -> ssl.SSLContext:
    """For the dialling side; ``named`` compares the far side's DNS name, see ``dns_name_of``."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, roots, alpn)
    context.check_hostname = named
    context.verify_mode = ssl.CERT_REQUIRED
    if credentials is not None:
        _load(context, credentials)
    return context


def unjudged_context(alpn: str) -> ssl.SSLContext:
    """For one who knows nobody at the far side: whatever is heard there must prove itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([alpn])
    return context


def _context(protocol: int, roots: Sequence[bytes], alpn: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=b"".join(roots))
    context.set_alpn_protocols([alpn])
    return context


def _load(context: ssl.SSLContext, credentials: Credentials) -> None:
    chain = (credentials.leaf, credentials.issuer)
    pem = credentials.keys.identity_pem().decode()
    with file_of(pem + "".join(map(ssl.DER_cert_to_PEM_cert, chain))) as path:
        context.load_cert_chain(path)


@contextmanager
def file_of(text: str) -> Iterator[str]:
    """A name for bytes in memory, since ``ssl`` reads keys from files only.

    On Linux the file has no disk behind it; elsewhere it is private and gone after the block.
    """
    if hasattr(os, "memfd_create") and Path("/proc/self/fd").exists():
        with os.fdopen(os.memfd_create("rhizome", os.MFD_CLOEXEC), "w") as file:
            file.write(text)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "chain.pem")
            path.touch(mode=0o600)
            path.write_text(text)
            yield str(path)


class _Certificate(Protocol):
    def public_bytes(self, encoding: int) -> bytes: ...


class _SslObject(Protocol):
    """What 3.11's SSLObject wraps; ``get_verified_chain`` became public in 3.13."""

    def get_verified_chain(self) -> list[_Certificate | bytes]: ...


class TlsChannel:
    """``overlay.ports.ByteChannel`` with TLS. Usable after ``handshake``."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        peer_id: PeerId | None = None,
        received: bytes = b"",
    ) -> None:
        """Wraps a stream.

        Args:
            stream: Connected; closed with this channel.
            context: As made above.
            server_side: Whether we accepted.
            peer_id: Whose certificate the far side must show, where the context compares names.
            received: Bytes that were already read from the stream.
        """
        self._stream = stream
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._in.write(received)
        self._tls = context.wrap_bio(
            self._in,
            self._out,
            server_side=server_side,
            server_hostname=None if peer_id is None else dns_name_of(peer_id),
        )
        self._broken: BaseException | None = None
        self._sending = False
        self._ended = False
        self._closed = False

    async def handshake(self, alpn: str) -> None:
        """Completes the handshake. The caller sets the deadline.

        Raises:
            SecurityError: When the far side's certificate is refused.
            trio.BrokenResourceError: When the far side does not speak this protocol, or refuses
                ours before it is through; the cause says more.
        """
        try:
            while True:
                try:
                    self._tls.do_handshake()
                except ssl.SSLWantReadError:
                    await self._flush()
                    self._feed(await self._stream.receive_some(RECEIVE_BYTES))
                else:
                    break
        except ssl.SSLCertVerificationError as error:
            await self._say_alert()
            kind = _VERIFY_ERRORS.get(error.verify_code, UntrustedIssuer)
            raise kind(f"the far end's certificate is refused: {error.verify_message}") from error
        except ssl.SSLError as error:
            await self._say_alert()
            raise trio.BrokenResourceError(_words(error)) from error
        await self._flush()
        if self._tls.selected_alpn_protocol() != alpn:
            raise trio.BrokenResourceError("the far side speaks another protocol")

    @property
    def leaf(self) -> bytes | None:
        """The certificate that the far side has shown."""
        return self._tls.getpeercert(binary_form=True)

    @property
    def issuer(self) -> bytes | None:
        """The certificate that has signed it, as OpenSSL found the chain."""
        holder = self._tls if hasattr(self._tls, "get_verified_chain") else self._tls._sslobj  # type: ignore[attr-defined]  # noqa: SLF001 - public from 3.13 on
        chain = cast("_SslObject", holder).get_verified_chain()
        if len(chain) < 2:
            return None
        issuer = chain[1]
        return issuer if isinstance(issuer, bytes) else issuer.public_bytes(2)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._closed:
            raise trio.ClosedResourceError
        if self._broken is not None:
            raise trio.BrokenResourceError("the channel is broken") from self._broken
        try:
            self._tls.write(data)
            await self._flush()
        except ssl.SSLError as error:
            self._broken = error
            raise trio.BrokenResourceError(_words(error)) from error

    async def receive_some(self) -> bytes:
        while True:
            if self._closed:
                raise trio.ClosedResourceError
            if self._holds_bytes and (data := self._decrypt()):
                return data
            if self._ended:
                await trio.lowlevel.checkpoint()
                return b""
            if self._broken is not None:
                raise trio.BrokenResourceError(_words(self._broken)) from self._broken
            self._feed(await self._stream.receive_some(RECEIVE_BYTES))

    def _decrypt(self) -> bytes:
        """Everything that can be read now. A failure is kept for the next call."""
        parts = []
        while self._broken is None and not self._ended:
            try:
                part = self._tls.read(RECEIVE_BYTES)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                self._ended = True
            except ssl.SSLError as error:
                self._broken = error
            else:
                parts.append(part)
                self._ended = not part
                if not self._holds_bytes:
                    break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    @property
    def _holds_bytes(self) -> bool:
        """Whether a read might give something: to be told that it does not takes an exception."""
        return bool(self._in.pending or self._in.eof or self._tls.pending())

    def _feed(self, data: bytes | bytearray) -> None:
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()

    async def _flush(self) -> None:
        self._sending = True
        try:
            while self._out.pending:
                await self._stream.send_all(self._out.read())
        except BaseException as error:
            self._broken = error
            raise
        self._sending = False

    async def _say_alert(self) -> None:
        """Tells the far side why it is refused, if it still listens."""
        with (
            suppress(trio.BrokenResourceError, trio.ClosedResourceError),
            trio.move_on_after(GOODBYE_S),
        ):
            await self._flush()

    async def aclose(self) -> None:
        """Closes; says so to the far side if that takes no time."""
        try:
            if not self._sending and self._broken is None and not self._closed:
                self._closed = True
                with suppress(ssl.SSLError):
                    self._tls.unwrap()
                await self._say_alert()
        finally:
            self._closed = True
            await trio.aclose_forcefully(self._stream)


def _words(error: BaseException) -> str:
    """What OpenSSL calls the failure, without its source lines."""
    reason = getattr(error, "reason", None)
    return str(reason or error).lower().replace("_", " ")
