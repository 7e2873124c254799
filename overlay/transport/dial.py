"""Connections of clients: to the peer of this host by its Unix socket, or to any peer by token."""

from __future__ import annotations

import re
import shlex
import ssl
from pathlib import Path
from typing import Final

import trio

from overlay.address import Address
from overlay.errors import ConfigError, Deadline, HomeError, PeerGone
from overlay.home import Home
from overlay.ports import Clock, SecureChannel
from overlay.system import SystemClock, SystemEntropy
from overlay.transport.connection import Connection
from overlay.transport.hello import client_hello
from overlay.transport.limits import Limits
from overlay.transport.link import Judge, establish
from overlay.transport.local import dial_local
from overlay.transport.sockets import connect
from overlay.transport.tcp import TlsLimits, secure
from overlay.transport.tls import CLIENT_ALPN, TlsChannel, dialling_context
from security.certificate import OverlayId, overlay_id_of, parse_leaf
from security.errors import Malformed
from security.judge import judge_leaf
from security.peer_id import PeerId
from security.revocation import RevocationSet

CA_BYTES_MAX: Final = 1 << 16

PEM: Final = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)

NO_PROTOCOLS: Final = "/rhizome/none/"
"""A client serves nothing."""


async def dial_client(address: Address, *roots: bytes) -> SecureChannel:
    """TLS to a peer's overlay port without a certificate of ours.

    Raises:
        SecurityError: When the far side is not under one of these roots.
        trio.BrokenResourceError, OSError: When there is no connection to be had.
    """
    context = dialling_context(roots, CLIENT_ALPN, credentials=None, named=False)
    channel = TlsChannel(await connect(address, None), context, server_side=False)
    return await secure(channel, CLIENT_ALPN, address, TlsLimits().handshake_s)


async def dial_peer(address: str | Address, *, ca: str | Path | None) -> Connection:
    """Connects to a peer as a client that will show a token.

    Args:
        address: ``host:port`` of its overlay port.
        ca: The overlay's root certificate, PEM or DER; while the root is changed two, PEM.

    Raises:
        ConfigError: When the address or ``ca`` cannot be read.
        SecurityError: When the peer is not of that overlay.
        OSError, OverlayError: When there is no connection to be had; PeerGone where it broke, as
            that of a peer which ends just now.
    """
    where = Address.parse(address) if isinstance(address, str) else address
    roots, overlay_id = _read_roots(ca)
    clock = SystemClock()
    try:
        channel = await dial_client(where, *roots)
    except trio.BrokenResourceError as error:
        raise PeerGone(f"no connection to the peer at {where}: {error}") from error
    return await _establish(channel, overlay_id, clock, _judge_of(overlay_id, clock))


async def dial_socket(home: Home) -> Connection:
    """Connects to the peer that runs on this host, in that folder.

    Raises:
        HomeError: When none runs there, or it cannot be asked now.
        OverlayError: When it does not speak as it should.
    """
    try:
        channel = await dial_local(home.control_path())
    except (FileNotFoundError, ConnectionRefusedError):
        raise HomeError(_nobody_listens(home)) from None
    except OSError as error:
        words = f"the peer in {home.path} cannot be asked now: {error.strerror}"
        raise HomeError(f"{words}; try again") from None
    clock = SystemClock()
    try:
        return await _establish(channel, None, clock, _judge_of(None, clock))
    except Deadline:
        words = f"the peer in {home.path} does not answer: look at its log, or start it again"
        raise HomeError(words) from None


def _nobody_listens(home: Home) -> str:
    process = home.process()
    if process is not None:
        return (
            f"process {process} is at work in {home.path} and takes no commands yet: "
            "a peer that is starting loads its model first; try again"
        )
    command = f"rhizome peer --home {shlex.quote(str(home.path))}"
    return f"no peer is running in {home.path}: start it with '{command}'"


async def _establish(
    channel: SecureChannel, overlay_id: OverlayId | None, clock: Clock, judge: Judge
) -> Connection:
    limits = Limits()
    ours = client_hello(overlay_id=overlay_id or "", windows=limits.windows, unix_s=clock.unix_s())
    return await establish(
        channel,
        ours=ours,
        judge=judge,
        expected=None,
        clock=clock,
        entropy=SystemEntropy(),
        limits=limits,
        allowed=NO_PROTOCOLS,
    )


def _judge_of(overlay_id: OverlayId | None, clock: Clock) -> Judge:
    """A client knows of no revocations: tokens and peers see to those."""

    def judge(leaf: bytes, expected: PeerId | None) -> PeerId:
        parsed = parse_leaf(leaf)
        return judge_leaf(
            parsed,
            now_unix_s=clock.unix_s(),
            revocations=RevocationSet(),
            overlay_id=overlay_id or parsed.overlay_id,
            expected=expected,
            key=None,
        )

    return judge


def _read_roots(ca: str | Path | None) -> tuple[list[bytes], OverlayId]:
    if ca is None:
        raise ConfigError("a connection by address needs ca=, the overlay's root certificate")
    try:
        data = Path(ca).expanduser().read_bytes()[:CA_BYTES_MAX]
        blocks = PEM.findall(data.decode()) if data.startswith(b"-----") else []
        roots = [ssl.PEM_cert_to_DER_cert(each) for each in blocks] or [data]
        (overlay_id,) = set(map(overlay_id_of, roots))
        return roots, overlay_id
    except OSError as error:
        raise ConfigError(f"cannot read {ca}: {error.strerror}") from error
    except (ValueError, Malformed):
        raise ConfigError(f"{ca} is not an overlay's root certificate") from None
