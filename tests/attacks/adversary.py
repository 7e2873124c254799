"""Adversaries, each an object that holds the keys that its class says, and no others.

What they send is made by hand or by the product's own code; what an honest program would never
send goes on the same connections.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import msgspec
import trio

from chaos.entropy import SeededEntropy
from chaos.founding import enrol, found
from chaos.network import SimTransport
from chaos.world import Host
from overlay.gossip.messages import Bundle, Head, LoadHint, Repair, StreamHead, decode_message
from overlay.gossip.messages import encode as encode_gossip
from overlay.identity import Identity
from overlay.knowledge import PROTOCOL as GOSSIP
from overlay.ports import ByteChannel, SecureChannel, Transport
from overlay.revocation.messages import PROTOCOL as REVOCATIONS
from overlay.revocation.messages import Answer, Compare, Part, Taken, decode_question
from overlay.revocation.messages import encode as encode_revocations
from overlay.transport.connection import Connection, Handler
from overlay.transport.hello import Hello, Role, client_hello, encode_hello
from overlay.transport.limits import Limits
from overlay.transport.link import establish
from overlay.transport.stream import Stream
from overlay.transport.tcp import TlsTransport
from overlay.trust.messages import PROTOCOL as TRUST
from overlay.trust.messages import Lacking
from overlay.trust.messages import encode as encode_trust
from security.certificate import issue_leaf, parse_leaf
from security.keys import HostKeys
from security.peer_id import PeerId
from security.record import sign_record
from security.revocation import RevocationSet, make_revocation
from security.signed import Kind, sign_as_peer
from tests.attacks.victim import BETA, Victim
from tests.attacks.worlds import RealWorld

AT = "10.66.0.66"
DAY_S = 86_400.0

Say = Callable[[bytes], Awaitable[None]]


@dataclass
class KeyHolder:
    """Holds one identity: its key and the leaf that goes with it. Speaks to one peer at a time.

    ``messages`` are the gossip messages that it was told; it carries on none of them. ``handlers``
    are what it serves beside gossip.
    """

    victim: Victim
    identity: Identity
    boot_salt: bytes = b"adversary's salt"
    generation: int = 0
    hseq: int = 0
    messages: list[bytes] = field(default_factory=list)
    handlers: dict[str, Handler] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.generation = int(self.victim.now_unix_s * 1000)

    @property
    def peer_id(self) -> PeerId:
        return self.identity.peer_id

    @property
    def transport(self) -> Transport:
        """From an address of its own where the network is simulated, else from loopback."""
        world, own = self.victim.world, self.identity
        if isinstance(world, RealWorld):
            return TlsTransport(own.credentials)
        return SimTransport(world.network, AT, own.leaf, own.issuer, own.trust.roots.in_force)

    def hello(self, **changes: object) -> Hello:
        """What it says of itself on a connection."""
        ours = Hello(
            role=Role.PEER,
            overlay_id=self.identity.trust.overlay_id,
            peer_id=self.peer_id,
            generation=self.generation,
            boot_salt=self.boot_salt,
            windows=Limits().windows,
            revocations_digest=b"",
            unix_s=self.victim.now_unix_s,
        )
        return msgspec.structs.replace(ours, **changes)

    async def dial(self, host: Host) -> SecureChannel:
        node = host.running
        return await self.transport.dial(node.addresses[0], node.peer_id)

    @asynccontextmanager
    async def connected(self, host: Host, **hello: object) -> AsyncIterator[Connection]:
        """A connection that is up: its keys admit it. Raises as ``establish``."""
        connection = await establish(
            await self.dial(host),
            ours=self.hello(**hello),
            judge=lambda leaf, _: parse_leaf(leaf).peer_id,
            expected=None,
            clock=host.running.ports.clock,
            entropy=SeededEntropy(1, "adversary's connection"),
            limits=Limits(),
        )
        async with trio.open_nursery() as nursery:
            handlers = {
                GOSSIP: self._hear,
                REVOCATIONS: self._knows_of_nobody_revoked,
                TRUST: self._knows_of_nothing_new,
            }
            await nursery.start(connection.run, {**handlers, **self.handlers})
            yield connection
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def raw(self, host: Host) -> AsyncIterator[ByteChannel]:
        """A channel on which HELLO has been said both ways; frames of any kind may follow."""
        channel = (await self.dial(host)).channel
        try:
            await channel.send_all(encode_hello(self.hello()))
            await channel.receive_some()
            yield channel
        finally:
            with trio.CancelScope(shield=True):
                await channel.aclose()

    async def _knows_of_nobody_revoked(self, connection: Connection, stream: Stream) -> None:
        """As any admitted peer answers: it confirms who has just started."""
        digest = RevocationSet().digest
        if isinstance(decode_question(stream.body), Compare):
            answer: Answer = Part(digest=digest, issuers=[], statements=[], more=False)
        else:
            answer = Taken(digest=digest)
        await stream.send(encode_revocations(answer))
        await stream.finish()

    async def _knows_of_nothing_new(self, connection: Connection, stream: Stream) -> None:
        """As a peer of this version answers: the others keep in mind what it has shown them."""
        await stream.send(encode_trust(Lacking(issuers=[], roots=[], cards=[])))
        await stream.finish()

    async def _hear(self, connection: Connection, stream: Stream) -> None:
        while (message := await stream.receive()) is not None:
            self.messages.append(message)

    @asynccontextmanager
    async def gossiping(self, host: Host) -> AsyncIterator[Say]:
        """A connection with a gossip stream on it; gives what says a message there."""
        async with self.connected(host) as connection, connection.open(GOSSIP, b"") as stream:
            yield stream.send

    # -- what it can sign

    def record(self, *, seq: int = 1, models: tuple[str, ...] = ()) -> bytes:
        own = self.identity
        return sign_record(
            own.keys,
            own.trust.overlay_id,
            leaf=own.leaf,
            issuer=own.issuer,
            addresses=(f"{AT}:7401",),
            generation=self.generation,
            boot_salt=self.boot_salt,
            seq=seq,
            models=models,
        )

    def head(self, *, streams: list[StreamHead] | None = None, **changes: object) -> bytes:
        self.hseq += 1
        head = Head(
            v=1,
            generation=self.generation,
            hseq=self.hseq,
            unix_ms=int(self.victim.now_unix_s * 1000),
            load=LoadHint(slots=4),
            streams=streams or [],
        )
        return self.signed(Kind.HEAD, msgspec.structs.replace(head, **changes))

    def signed(self, kind: Kind, body: object) -> bytes:
        own = self.identity
        return sign_as_peer(own.keys, own.trust.overlay_id, kind, msgspec.msgpack.encode(body))

    # -- what it has heard

    def heard(self) -> Repair:
        """Every object that it was told, as its origins have signed it."""
        found: dict[str, list[bytes]] = {"epochs": [], "records": [], "heads": [], "frames": []}
        for data in self.messages:
            message = decode_message(data)
            if isinstance(message, Repair):
                for name in found:
                    found[name] += getattr(message, name)
            elif isinstance(message, Bundle):
                found["records"] += [] if message.record is None else [message.record]
                found["heads"].append(message.head)
                found["frames"] += message.frames
        return Repair(**{name: list(dict.fromkeys(each)) for name, each in found.items()})


def repair(**objects: list[bytes]) -> bytes:
    """A message with these objects and no others."""
    none: dict[str, list[bytes]] = {"epochs": [], "records": [], "heads": [], "frames": []}
    return encode_gossip(Repair(**{**none, **objects}))


def host_of(victim: Victim) -> KeyHolder:
    """A valid leaf of the overlay, and no tenant."""
    assert victim.world.authority is not None
    entropy = SeededEntropy(1, "host of no tenant")
    _, identity = enrol(
        victim.world.authority,
        (),
        keys=HostKeys.generate(entropy.secret),
        entropy=entropy,
        now_unix_s=victim.now_unix_s,
    )
    return KeyHolder(victim, identity)


def member_of_beta(victim: Victim) -> KeyHolder:
    """A valid leaf, and a place on the roster of tenant beta: all that the guest's folder holds."""
    return KeyHolder(victim, victim.guest.identity)


def foreign_peer(victim: Victim) -> KeyHolder:
    """A host of another overlay, whose root and issuer it owns as well."""
    _, identities = found(
        {"foreign": (BETA,)},
        (BETA,),
        entropy=lambda purpose: SeededEntropy(2, f"foreign {purpose}"),
        now_unix_s=victim.now_unix_s,
    )
    return KeyHolder(victim, identities["foreign"])


def with_leaf_of(victim: Victim, *, issued_ago_s: float, lifetime_s: float = DAY_S) -> KeyHolder:
    """A host whose leaf the overlay's issuer has signed so long ago."""
    assert victim.world.authority is not None
    own = host_of(victim)
    leaf = issue_leaf(
        victim.world.authority.issuer,
        own.peer_id,
        SeededEntropy(1, "another leaf").secret,
        victim.now_unix_s - issued_ago_s,
        lifetime_s=lifetime_s,
    )
    return replace(own, identity=replace(own.identity, leaf=leaf))


def revocation(victim: Victim, *ids: str) -> list[bytes]:
    """Statements of the overlay's issuer."""
    authority = victim.world.authority
    assert authority is not None
    return [make_revocation(authority.issuer, each, victim.now_unix_s) for each in ids]


def revoke(victim: Victim, *ids: str) -> None:
    """The issuer revokes, and every honest host has heard of it."""
    for node in victim.nodes:
        node.revoke(revocation(victim, *ids))


@dataclass
class Stranger:
    """Holds nothing; may know where a peer listens, and the overlay's id."""

    victim: Victim

    async def dial(self, host: Host, *, at: str = AT) -> SecureChannel:
        """A connection without a certificate, from an address."""
        transport = SimTransport(self.victim.world.network, at, None, None, None)  # type: ignore[arg-type]  # a client's
        return await transport.dial(host.running.addresses[0], None)

    def hello(self) -> Hello:
        """A client's, as it should be."""
        return client_hello(
            overlay_id=self.victim.overlay_id,
            windows=Limits().windows,
            unix_s=self.victim.now_unix_s,
        )

    @asynccontextmanager
    async def connected(self, host: Host, *, at: str = AT) -> AsyncIterator[Connection]:
        """A client's connection, which nobody has to prove anything for."""
        node = host.running
        connection = await establish(
            await self.dial(host, at=at),
            ours=self.hello(),
            judge=lambda _leaf, _expected: node.peer_id,
            expected=None,
            clock=node.ports.clock,
            entropy=SeededEntropy(1, "stranger's connection"),
            limits=Limits(),
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(connection.run)
            yield connection
            nursery.cancel_scope.cancel()
