"""Gossip cores over links that lose, double and reorder messages, with time as a number."""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from inference.events import BlockHash, BlocksEvicted, BlocksStored
from inference.request import Namespace
from overlay.errors import ProtocolError
from overlay.gossip.effects import Effect, NewGeneration, Persist, Send
from overlay.gossip.equivocation import PROOFS
from overlay.gossip.gossip import EPOCHS, FLOORS, Gossip, GossipConfig
from overlay.gossip.messages import Content, Frame, Head, LoadHint, StreamHead, encode
from overlay.gossip.stream import CHECKPOINT, DELTA, frame_header
from overlay.gossip.tagset import pack_tags
from overlay.identity import Identity
from security.authority import Authority
from security.envelope import Sealer
from security.epoch import TenantEpoch
from security.keys import HostKeys
from security.peer_id import PeerId
from security.record import Record
from security.revocation import RevocationSet
from security.signed import Kind, sign_as_peer
from security.tags import tags_of
from security.tenant import TenantId

NOW_S = 1_800_000_000.0
STEP_S = 0.5
NOTHING = RevocationSet()
SECRET_NAME = "marker-tenant-name"


@functools.cache
def authority_of(rosters: tuple[frozenset[str], ...]) -> tuple[Authority, tuple[HostKeys, ...]]:
    """An overlay whose host number i is a member of the tenants ``rosters[i]``."""
    secret = random.Random(5).randbytes
    names = sorted(frozenset[str]().union(*rosters))
    authority = Authority.create(secret, NOW_S, names)
    hosts = []
    for tenants in rosters:
        keys = HostKeys.generate(secret)
        ids = [authority.tenant_id(name) for name in sorted(tenants)]
        authority, _ = authority.enrol(keys.peer_id, keys.sealing_public, ids, secret, NOW_S)
        hosts.append(keys)
    return authority, tuple(hosts)


@functools.cache
def leaf_of(rosters: tuple[frozenset[str], ...], number: int) -> bytes:
    authority, hosts = authority_of(rosters)
    host = hosts[number]
    secret = random.Random(6 + number).randbytes
    _, grant = authority.enrol(host.peer_id, host.sealing_public, (), secret, NOW_S)
    return grant.leaf


def record_of(gossip: Gossip, peer_id: PeerId) -> Record | None:
    """What a host holds as another one's record."""
    origin = gossip.origins.known.get(peer_id)
    return None if origin is None else origin.record


def chain(document: int, blocks: int) -> list[BlockHash]:
    """Chained names of a document's blocks; documents with equal thirds share 4 blocks."""
    names: list[BlockHash] = []
    parent = b""
    for depth in range(blocks):
        content = (document // 3 if depth < 4 else document, depth)
        parent = hashlib.blake2b(parent + repr(content).encode(), digest_size=16).digest()
        names.append(BlockHash(parent))
    return names


@dataclass
class Host:
    """A host: what survives its process, and its gossip core while that runs."""

    number: int
    identity: Identity
    home: Sequence[bytes]
    generation: int = 1
    boot_salt: bytes = bytes(16)
    rows: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    received: list[bytes] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    cached: dict[TenantId, dict[int, int]] = field(default_factory=dict)
    errors: int = 0
    gossip: Gossip = field(init=False)

    @property
    def peer_id(self) -> PeerId:
        return self.identity.peer_id

    def tenants(self) -> dict[TenantId, TenantEpoch]:
        return self.gossip.epochs.mine

    def tenant(self, name: str) -> TenantEpoch:
        return next(epoch for epoch in self.tenants().values() if epoch.name == name)

    def published(self, tenant: TenantEpoch) -> set[int]:
        """The tags that this host publishes, from its own digest."""
        digest = self.gossip.forest.tree(Namespace(tenant.tenant_id)).digest
        return set(tags_of(tenant.keys.tag_key, digest.blocks()))

    def view(self, origin: Host, tenant: TenantEpoch) -> set[int]:
        """What this host believes that another publishes, from its replica and its index."""
        read = self.gossip.reader.reads.get((origin.peer_id, tenant.tenant_id))
        tags = set() if read is None or not read.replica.visible else read.replica.tags
        table = self.gossip.reader.index._tables.get(tenant.tenant_id)
        masks = {} if table is None else table.tags
        bit = self.gossip.reader.index._bits.get(origin.peer_id, 0)
        assert tags == {tag for tag, mask in masks.items() if mask & bit}
        return tags

    def cache(self, tenant: TenantEpoch, document: int, blocks: int) -> None:
        """Fills or shortens the cached part of a document."""
        held = self.cached.setdefault(tenant.tenant_id, {})
        space, names = Namespace(tenant.tenant_id), chain(document, max(blocks, 20))
        before = held.get(document, 0)
        if blocks >= before:
            parent = names[before - 1] if before else None
            run = tuple(names[before:blocks])
            self.gossip.fold(
                [BlocksStored(namespace=space, parent=parent, depth=before, blocks=run)]
            )
        else:
            keep = [d for d, n in held.items() if d != document and d // 3 == document // 3 and n]
            blocks = max(blocks, 4) if keep else blocks
            gone = tuple(reversed(names[blocks:before]))
            self.gossip.fold([BlocksEvicted(namespace=space, blocks=gone)])
        held[document] = blocks


class Fabric:
    """All hosts, their links, and the messages under way."""

    def __init__(
        self,
        rosters: Sequence[Iterable[str]],
        *,
        seed: int = 1,
        loss: float = 0.0,
        double: float = 0.0,
        delay_s: float = 0.0,
    ) -> None:
        self.rng = random.Random(seed)
        self.loss, self.double, self.delay_s = loss, double, delay_s
        self.now_s = 0.0
        self.links: set[frozenset[int]] = set()
        self._queue: list[tuple[float, int, Host, Host, bytes]] = []
        self._count = 0
        places = tuple(frozenset(names) for names in rosters)
        self.authority, keys = authority_of(places)
        self.hosts: list[Host] = []
        for number, host_keys in enumerate(keys):
            leaf = leaf_of(places, number)
            identity = Identity(
                keys=host_keys,
                leaf=leaf,
                issuer=self.authority.issuer.der,
                trust=self.authority.trust,
            )
            ids = [self.authority.tenant_id(name) for name in sorted(places[number])]
            home = [self.authority.tenants[tenant].epoch_object for tenant in ids]
            host = Host(number, identity, home)
            self.hosts.append(host)
            self.boot(host, generation=1)

    # -- hosts and links

    def boot(self, host: Host, *, generation: int) -> None:
        """A process of the host begins, with what its disk holds."""
        host.generation, host.boot_salt = generation, self.rng.randbytes(16)
        host.cached = {}
        host.gossip = Gossip(
            GossipConfig(),
            host.identity,
            generation=generation,
            boot_salt=host.boot_salt,
            rng=random.Random(self.rng.random()),
            floors=dict(host.rows.get(FLOORS, {})),
            proofs=dict(host.rows.get(PROOFS, {})),
            trust=lambda: host.identity.trust,
            revocations=lambda: NOTHING,
            now_s=self.now_s,
        )
        for epoch in [*host.rows.get(EPOCHS, {}).values(), *host.home]:
            self.learn(host, epoch)
        host.gossip.describe(addresses=[f"10.0.0.{host.number}:7401"], zone=None, models=["m"])

    def learn(self, host: Host, epoch: bytes) -> None:
        """The host learns an EPOCH object from its own issuer or disk."""
        self._do(host, host.gossip.learn_epoch(epoch, self.now_s, self.unix_s))

    def restart(self, host: Host, *, generation: int | None = None) -> None:
        """The host's process dies and begins again; its cache and messages under way are lost."""
        links = sorted((link for link in self.links if host.number in link), key=sorted)
        for link in links:
            self.unlink(*link)
        self.boot(host, generation=host.generation + 1 if generation is None else generation)
        for link in links:
            self.link(*link)

    def link(self, *numbers: int) -> None:
        """Every two of these hosts have a connection."""
        for one in numbers:
            for other in numbers:
                if one < other and frozenset((one, other)) not in self.links:
                    self.links.add(frozenset((one, other)))
                    for host, far in ((one, other), (other, one)):
                        a, b = self.hosts[host], self.hosts[far]
                        self._do(a, a.gossip.on_connected(b.peer_id, self.now_s, self.unix_s))

    def unlink(self, one: int, other: int) -> None:
        self.links.discard(frozenset((one, other)))
        self._queue = [
            entry for entry in self._queue if {entry[2].number, entry[3].number} != {one, other}
        ]
        self.hosts[one].gossip.on_disconnected(self.hosts[other].peer_id)
        self.hosts[other].gossip.on_disconnected(self.hosts[one].peer_id)

    # -- time

    @property
    def unix_s(self) -> float:
        return NOW_S + self.now_s

    def run(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            for host in self.hosts:
                if host.gossip.next_deadline_s() <= self.now_s:
                    self._do(host, host.gossip.on_timer(self.now_s, self.unix_s))
            self._deliver()
            self.now_s += STEP_S

    def give(self, target: Host, sender: PeerId, data: bytes) -> list[Effect]:
        """One message reaches a host, and what it causes is done."""
        target.received.append(data)
        effects = target.gossip.on_message(sender, data, self.now_s, self.unix_s)
        self._do(target, effects)
        return effects

    def _deliver(self) -> None:
        for _ in range(8):
            due = sorted(entry[:2] for entry in self._queue if entry[0] <= self.now_s)
            if not due:
                return
            now = {number for _, number in due}
            entries = sorted((e for e in self._queue if e[1] in now), key=lambda e: e[:2])
            self._queue = [entry for entry in self._queue if entry[1] not in now]
            for _, _, sender, target, data in entries:
                try:
                    self.give(target, sender.peer_id, data)
                except ProtocolError:
                    target.errors += 1

    def _do(self, host: Host, effects: Iterable[Effect]) -> None:
        for effect in effects:
            host.effects.append(effect)
            if isinstance(effect, Send):
                self._send(host, effect)
            elif isinstance(effect, Persist):
                table = host.rows.setdefault(effect.table, {})
                table.update({k: v for k, v in effect.rows.items() if v is not None})
            elif isinstance(effect, NewGeneration):
                host.generation = max(host.generation, effect.above) + 1
                host.gossip.restart(host.generation)

    def _send(self, host: Host, effect: Send) -> None:
        far = next(other for other in self.hosts if other.peer_id == effect.peer_id)
        if frozenset((host.number, far.number)) not in self.links:
            return
        copies = 2 if self.rng.random() < self.double else 1
        for _ in range(copies):
            if self.rng.random() >= self.loss:
                self._count += 1
                due_s = self.now_s + self.rng.random() * self.delay_s
                self._queue.append((due_s, self._count, host, far, effect.data))

    # -- what must hold

    def differences(self) -> list[str]:
        """Every pair of members of a tenant where one has another picture of the other."""
        return [
            f"{here.number} of {origin.number}: {len(here.view(origin, tenant))}"
            f" for {len(origin.published(tenant))}"
            for here in self.hosts
            for tenant in here.tenants().values()
            for origin in self.hosts
            if origin is not here
            and origin.peer_id in tenant.members
            and here.view(origin, tenant) != origin.published(tenant)
        ]


# -- what a member with valid keys can sign


def signed_head(host: Host, **changes: object) -> bytes:
    fields: dict[str, object] = {
        "v": 1,
        "generation": host.generation,
        "hseq": 1,
        "unix_ms": int(NOW_S * 1000),
        "load": LoadHint(),
        "streams": [],
    }
    head = Head(**{**fields, **changes})  # type: ignore[arg-type]
    return sign_as_peer(host.identity.keys, host.identity.trust.overlay_id, Kind.HEAD, encode(head))


def two_heads(host: Host, keys: HostKeys | None = None) -> list[bytes]:
    """Of one number; with others' keys in place of the host's where they are given."""
    if keys is not None:
        host = replace(host, identity=replace(host.identity, keys=keys))
    return [signed_head(host, load=LoadHint(slots=slots)) for slots in (1, 64)]


def stream_heads(count: int) -> list[StreamHead]:
    return [StreamHead(number.to_bytes(8, "big"), 1, 0) for number in range(count)]


def signed_frame(
    host: Host,
    tenant: TenantEpoch,
    seq: int,
    *,
    added: Sequence[int] = (),
    content: bytes | None = None,
    checkpoint: bool = False,
    generation: int | None = None,
    stream: bytes | None = None,
) -> bytes:
    """A frame made by hand with a host's real keys and those of a tenant."""
    generation = host.generation if generation is None else generation
    stream = tenant.keys.stream_id(host.peer_id, generation) if stream is None else stream
    plain = encode(Content(pack_tags(added), b"", False)) if content is None else content
    sealer = Sealer(tenant.keys, host.peer_id, generation, host.boot_salt)
    kind = CHECKPOINT if checkpoint else DELTA
    frame = Frame(
        v=1,
        stream=stream,
        generation=generation,
        seq=seq,
        checkpoint=checkpoint,
        envelope=sealer.seal(kind, frame_header(stream, generation, seq), plain),
    )
    body = encode(frame)
    return sign_as_peer(host.identity.keys, host.identity.trust.overlay_id, Kind.FRAME, body)
