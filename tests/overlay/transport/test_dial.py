"""Clients by address: a token's way in, over TLS without a certificate."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from overlay.address import Address
from overlay.errors import ConfigError, PeerGone, StreamReset
from overlay.ports import SecureChannel
from overlay.transport.connection import Connection, Stream
from overlay.transport.dial import dial_peer
from overlay.transport.tcp import TlsTransport
from security.certificate import make_next_root
from security.errors import UntrustedIssuer
from tests.overlay.transport.world import HERE, Overlay, echo, link

HANDLERS = {"/rhizome/client/1": echo, "/rhizome/forward/1": echo}


@asynccontextmanager
async def peer(overlay: Overlay) -> AsyncIterator[Address]:
    host = overlay.host()

    async def accept(channel: SecureChannel) -> None:
        connection = await link(overlay, host, channel)
        await connection.run(HANDLERS)

    async with trio.open_nursery() as nursery:
        with trio.fail_after(10):
            bound = await nursery.start(TlsTransport(host).listen, [HERE], accept)
            yield bound[0]
        nursery.cancel_scope.cancel()


def root_file(overlay: Overlay, folder: Path, *, pem: bool = True) -> Path:
    path = folder / "root.pem"
    der = overlay.root.der
    path.write_bytes(ssl.DER_cert_to_PEM_cert(der).encode() if pem else der)
    return path


@pytest.mark.parametrize("pem", [True, False])
async def test_a_client_reaches_client_protocols_and_nothing_else(
    tmp_path: Path, *, pem: bool
) -> None:
    overlay = Overlay()
    async with peer(overlay) as address:
        connection = await dial_peer(str(address), ca=root_file(overlay, tmp_path, pem=pem))
        async with trio.open_nursery() as nursery:
            await nursery.start(connection.run, {})
            assert connection.remote.peer_id is not None
            assert await connection.call("/rhizome/client/1", b"ask", timeout_s=5) == b"ask"
            with pytest.raises(StreamReset):
                await connection.call("/rhizome/forward/1", b"ask", timeout_s=5)
            await connection.aclose(0, "done")


async def test_a_client_may_know_both_roots_while_one_is_changed(tmp_path: Path) -> None:
    overlay = Overlay()
    new = make_next_root(overlay.overlay_id, 2, overlay.secret, overlay.now_unix_s)
    path = tmp_path / "roots.pem"
    path.write_text("".join(map(ssl.DER_cert_to_PEM_cert, (new.der, overlay.root.der))))
    async with peer(overlay) as address:
        connection = await dial_peer(str(address), ca=path)
        async with trio.open_nursery() as nursery:
            await nursery.start(connection.run, {})
            await connection.aclose(0, "done")
    mixed = (Overlay(2).root.der, overlay.root.der)
    path.write_text("".join(map(ssl.DER_cert_to_PEM_cert, mixed)))
    with pytest.raises(ConfigError):
        await dial_peer("127.0.0.1:1", ca=path)


async def test_a_peer_cannot_open_streams_at_a_client(tmp_path: Path) -> None:
    overlay = Overlay()
    host = overlay.host()
    refused = trio.Event()

    async def call_back(connection: Connection, stream: Stream) -> None:
        with pytest.raises(StreamReset):
            await connection.call("/rhizome/client/1", b"", timeout_s=5)
        refused.set()

    async def accept(channel: SecureChannel) -> None:
        connection = await link(overlay, host, channel)
        await connection.run({"/rhizome/client/1": call_back})

    async with trio.open_nursery() as nursery:
        bound = await nursery.start(TlsTransport(host).listen, [HERE], accept)
        connection = await dial_peer(bound[0], ca=root_file(overlay, tmp_path))
        await nursery.start(connection.run, {"/rhizome/client/1": echo})
        async with connection.open("/rhizome/client/1", b""):
            with trio.fail_after(5):
                await refused.wait()
        nursery.cancel_scope.cancel()


async def test_a_peer_of_another_overlay_is_refused(tmp_path: Path) -> None:
    async with peer(Overlay(1)) as address:
        with pytest.raises(UntrustedIssuer):
            await dial_peer(address, ca=root_file(Overlay(2), tmp_path))


async def test_a_peer_that_ends_within_the_handshake_is_gone(tmp_path: Path) -> None:
    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, hang_up, 0, host="127.0.0.1"))
        address = Address(*listener.socket.getsockname())
        with pytest.raises(PeerGone, match="no connection to the peer at 127"):
            await dial_peer(address, ca=root_file(Overlay(), tmp_path))
        nursery.cancel_scope.cancel()


async def test_a_missing_or_foreign_root_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ca="):
        await dial_peer("127.0.0.1:1", ca=None)
    with pytest.raises(ConfigError, match="cannot read"):
        await dial_peer("127.0.0.1:1", ca=tmp_path / "none.pem")
    junk = tmp_path / "junk.pem"
    for data in (b"", b"-----BEGIN CERTIFICATE-----\n", b"\xff\xfe"):
        junk.write_bytes(data)
        with pytest.raises(ConfigError, match="not an overlay's root"):
            await dial_peer("127.0.0.1:1", ca=junk)
