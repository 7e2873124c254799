"""Overlays, credentials and connections for the tests of the transport."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio
import trio.testing

from overlay.address import Address
from overlay.ports import SecureChannel
from overlay.system import SystemClock, SystemEntropy
from overlay.transport.connection import Connection, Handler, Stream
from overlay.transport.hello import Hello, Role
from overlay.transport.limits import Limits
from overlay.transport.link import Judge, establish
from overlay.transport.local import StreamChannel
from overlay.transport.tls import Credentials
from security.certificate import (
    IssuerKey,
    OverlayId,
    RootKey,
    issue_leaf,
    make_issuer,
    make_root,
    parse_leaf,
)
from security.judge import judge_leaf
from security.keys import HostKeys
from security.peer_id import PeerId
from security.revocation import RevocationSet

HERE = Address("127.0.0.1", 0)


class Overlay:
    """A root, an issuer and as many hosts as a test wants."""

    def __init__(self, seed: int = 1, *, now_unix_s: float | None = None) -> None:
        self._random = random.Random(seed)
        self.now_unix_s = SystemClock().unix_s() if now_unix_s is None else now_unix_s
        self.root: RootKey = make_root(self.secret, self.now_unix_s)
        self.issuer: IssuerKey = make_issuer(self.root, self.secret, self.now_unix_s)

    def secret(self, size_bytes: int) -> bytes:
        return self._random.randbytes(size_bytes)

    @property
    def overlay_id(self) -> OverlayId:
        return self.root.overlay_id

    def host(
        self, *, issued_unix_s: float | None = None, lifetime_s: float = 86_400.0
    ) -> Credentials:
        keys = HostKeys.generate(self.secret)
        issued_unix_s = self.now_unix_s if issued_unix_s is None else issued_unix_s
        leaf = issue_leaf(
            self.issuer, keys.peer_id, self.secret, issued_unix_s, lifetime_s=lifetime_s
        )
        return Credentials(keys=keys, leaf=leaf, issuer=self.issuer.der, roots=(self.root.der,))

    def renewed(self, host: Credentials) -> bytes:
        """A host's next leaf, which is good for two days; always the same."""
        serial = random.Random(2).randbytes
        peer_id = host.keys.peer_id
        return issue_leaf(self.issuer, peer_id, serial, self.now_unix_s, lifetime_s=172_800.0)

    def judge(self, leaf: bytes, expected: PeerId | None) -> PeerId:
        return judge_leaf(
            parse_leaf(leaf),
            now_unix_s=self.now_unix_s,
            revocations=RevocationSet(),
            overlay_id=self.overlay_id,
            expected=expected,
            key=None,
        )

    def hello(self, host: Credentials, limits: Limits | None = None) -> Hello:
        return Hello(
            role=Role.PEER,
            overlay_id=self.overlay_id,
            peer_id=host.keys.peer_id,
            generation=1,
            boot_salt=bytes(16),
            windows=(limits or Limits()).windows,
            revocations_digest=b"",
            unix_s=self.now_unix_s,
        )


async def link(
    overlay: Overlay,
    host: Credentials,
    channel: SecureChannel,
    *,
    expected: PeerId | None = None,
    judge: Judge | None = None,
    limits: Limits | None = None,
) -> Connection:
    """``establish`` with the defaults of a test."""
    return await establish(
        channel,
        ours=overlay.hello(host, limits),
        judge=judge or overlay.judge,
        expected=expected,
        clock=SystemClock(),
        entropy=SystemEntropy(),
        limits=limits or Limits(),
    )


@dataclass
class Pair:
    """Two connected connections that both run."""

    left: Connection
    right: Connection


@asynccontextmanager
async def pair(
    handlers: Mapping[str, Handler] | None = None,
    *,
    limits: Limits | None = None,
    right_limits: Limits | None = None,
    channels: tuple[trio.abc.Stream, trio.abc.Stream] | None = None,
) -> AsyncIterator[Pair]:
    """Two peers over memory; ``handlers`` are the right one's."""
    overlay = Overlay(now_unix_s=1_800_000_000.0)
    hosts = overlay.host(), overlay.host()
    streams = channels or trio.testing.memory_stream_pair()
    made: dict[int, Connection] = {}
    bounds = (limits or Limits(), right_limits or limits or Limits())

    async def make(side: int) -> None:
        channel = SecureChannel(
            channel=StreamChannel(streams[side]),
            leaf=hosts[1 - side].leaf,
            issuer=overlay.issuer.der,
            address=HERE,
        )
        made[side] = await link(overlay, hosts[side], channel, limits=bounds[side])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(make, 0)
        nursery.start_soon(make, 1)
    async with trio.open_nursery() as nursery:
        await nursery.start(made[0].run, {})
        await nursery.start(made[1].run, handlers or {})
        yield Pair(made[0], made[1])
        nursery.cancel_scope.cancel()


async def echo(connection: Connection, stream: Stream) -> None:
    """Sends the opening message back."""
    await stream.send(stream.body)
