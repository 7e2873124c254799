"""The composition root: one peer, put together from its settings, its identity and its ports."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace

import trio

from inference.request import Namespace
from overlay.address import Address
from overlay.admission import Admission
from overlay.certificate_watch import CertificateWatch
from overlay.client.handler import ClientHandler
from overlay.client.messages import PROTOCOL as CLIENT_PROTOCOL
from overlay.clones import PROTOCOL as CLONE_PROTOCOL
from overlay.clones import CloneWatch
from overlay.confirmation import Confirmation
from overlay.decisions import DecisionLog
from overlay.forward import PROTOCOL as FORWARD_PROTOCOL
from overlay.gauges import show_gauges
from overlay.generation import next_generation
from overlay.http.issuing import PROTOCOL as HTTP_PROTOCOL
from overlay.http.issuing import HttpIssuing
from overlay.identity import Identity
from overlay.ingress import PeerIngress
from overlay.isolation import EngineTenants
from overlay.issuer import IssuerDesk
from overlay.knowledge import PROTOCOL as GOSSIP_PROTOCOL
from overlay.knowledge import Knowledge
from overlay.metrics import Metrics
from overlay.node_config import NodeConfig
from overlay.peers import Peers
from overlay.ports import PeerHint, Ports
from overlay.principals import Principals
from overlay.quotas import Quotas
from overlay.renewer import PROTOCOL as RENEW_PROTOCOL
from overlay.renewer import Renewer, RenewHandler
from overlay.request import Principal
from overlay.revocation.keeper import RevocationKeeper
from overlay.revocation.messages import PROTOCOL as REVOCATION_PROTOCOL
from overlay.router import Router
from overlay.routing.policies import policy_named
from overlay.serve import ForwardHandler
from overlay.standing import Standing
from overlay.tenants import TenantBook
from overlay.transport.connection import Connection, Handler
from overlay.transport.hello import FEATURE_ISSUES, Hello, Role
from overlay.transport.stream import Stream
from overlay.trust.keeper import TrustKeeper
from overlay.trust.messages import PROTOCOL as TRUST_PROTOCOL
from overlay.trust.seeker import RootSeeker
from security.certificate import parse_leaf
from security.peer_id import PeerId
from security.revocation import RevocationSet
from security.trust import Trust

log = logging.getLogger(__name__)

HINTS_MAX = 64
DRAIN_POLL_S = 0.05
BOOT_SALT_BYTES = 16


class Node:
    """A running peer, for its faces and for tests."""

    def __init__(self, config: NodeConfig, ports: Ports) -> None:
        self.config, self.ports = config, ports
        self.identity = config.identity
        self.peer_id: PeerId = config.identity.peer_id
        self.generation = self._next_generation()
        self.boot_salt = ports.entropy.secret(BOOT_SALT_BYTES)
        self.trust = TrustKeeper(trust=self.identity.trust, ports=ports, keep=config.keep_roots)
        self.keeper = self._make_keeper()
        self.standing = Standing(lambda: self.identity, self.keeper.revokes)
        self.clones = self._make_clones()
        self.addresses: tuple[Address, ...] = ()
        self.draining, self._serving = False, 0
        self.leaving = trio.Event()
        self.tenants = TenantBook(
            lambda tenants: ports.engine.share_among([Namespace(each) for each in tenants])
        )
        self.metrics, self.decisions = Metrics(), DecisionLog()
        self.principals = self._make_principals()
        self.quotas = Quotas(config.quotas, ports.clock, serves=self.tenants.__contains__)
        self.engine_tenants = EngineTenants(
            engine=ports.engine,
            tenants=self.tenants,
            named=config.engine_tenant,
            shared=config.engine_shared,
            isolation=config.isolation,
        )
        self.confirmation = self._make_confirmation()
        self.admission = self._make_admission()
        self.peers = self._make_peers()
        self.knowledge = Knowledge(
            identity=config.identity,
            generation=self.generation,
            boot_salt=self.boot_salt,
            ports=ports,
            peers=self.peers,
            tenants=self.tenants,
            trust=self.trust,
            revocations=lambda: self.revocations,
            settings=config.gossip,
            zone=config.zone,
            confirmed=self.confirmation.event,
            on_load=lambda peer_id, taken_s: self.router.on_load(peer_id, taken_s),
            on_generation=self.clones.on_met,
            on_forgotten=lambda peer_id: self.router.on_forgotten(peer_id),
        )
        self.router = self._make_router()
        self.desk = self._make_desk()
        self.renewer = self._make_renewer()
        self.certificates = self._make_certificate_watch()
        self.ingress = PeerIngress(
            me=self.peer_id,
            clock=ports.clock,
            entropy=ports.entropy,
            engine=ports.engine,
            tenants=self.tenants,
            router=self.router,
            decisions=self.decisions,
            metrics=self.metrics,
            limits=config.ingress,
            quotas=self.quotas,
            is_revoked=self.keeper.revokes,
        )
        self.forwards = self._make_forwards()
        self.renewals = RenewHandler(self.desk)
        self.notices: list[Callable[[], list[tuple[str, str]]]] = []
        show_gauges(self)

    # -- made of

    def _make_peers(self) -> Peers:
        handlers: dict[str, Handler] = {
            FORWARD_PROTOCOL: self._serve_forward,
            GOSSIP_PROTOCOL: lambda connection, stream: self.knowledge(connection, stream),
            RENEW_PROTOCOL: lambda connection, stream: self.renewals(connection, stream),
            REVOCATION_PROTOCOL: self.keeper,
            TRUST_PROTOCOL: self.trust,
            CLONE_PROTOCOL: self.clones,
            HTTP_PROTOCOL: HttpIssuing(lambda: self.desk, self.ports.clock),
        }

        async def serve_client(connection: Connection, stream: Stream) -> None:
            await self.client_handler(self.principals.of_token)(connection, stream)

        return Peers(
            me=self.peer_id,
            transport=self.ports.transport,
            clock=self.ports.clock,
            entropy=self.ports.entropy,
            establish=self.admission.establish,
            admit=self.admission.admit,
            handlers=handlers,
            client_handlers={CLIENT_PROTOCOL: serve_client},
            on_up=self._on_up,
            on_down=self._on_down,
            on_self=self._on_self,
            newer_of=lambda peer_id: self.knowledge.record_of(peer_id),
            on_turned_away=lambda reason: self.renewer.on_turned_away(reason),
        )

    def _make_router(self) -> Router:
        config, ports = self.config, self.ports
        return Router(
            me=self.peer_id,
            clock=ports.clock,
            entropy=ports.entropy,
            engine=ports.engine,
            tenants=self.tenants,
            knowledge=self.knowledge,
            peers=self.peers,
            policy=policy_named(config.policy),
            zone=config.zone,
            zone_rules=config.zone_rules,
            serves=self.engine_tenants.serves,
            confirmed=self.confirmation.event.is_set,
            allow_variants=config.allow_variants,
        )

    def _make_admission(self) -> Admission:
        return Admission(
            trust=self.trust,
            revocations=lambda: self.revocations,
            ended=lambda: self.renewer.ended,
            hello=self.hello,
            clock=self.ports.clock,
            entropy=self.ports.entropy,
            limits=self.config.limits,
        )

    def _make_principals(self) -> Principals:
        trust, revocations = lambda: self.trust.now, lambda: self.revocations
        clock, issuer = self.ports.clock, self.standing.issuer
        return Principals(trust, self.tenants, clock, revocations, issuer)

    def _make_keeper(self) -> RevocationKeeper:
        return RevocationKeeper(
            trust=self.trust,
            ports=self.ports,
            on_learned=self._on_revoked,
            on_merged=lambda peer_id: self.confirmation.on_merged(peer_id),
        )

    def _make_clones(self) -> CloneWatch:
        return CloneWatch(
            me=self.peer_id,
            trust=lambda: self.trust.now,
            boot_salt=self.boot_salt,
            clock=self.ports.clock,
            generation=lambda: self.generation,
            jump=self._jump,
            revocations=lambda: self.revocations,
        )

    def _make_confirmation(self) -> Confirmation:
        return Confirmation(
            me=self.peer_id,
            expects_others=self.config.expects_others,
            tenants=self.tenants,
            heard_of=lambda: self.knowledge.gossip.origins.floors,
            enrolled=lambda: () if self.desk is None else self.desk.enrolled(),
            is_revoked=self.keeper.revokes,
            on_confirmed=lambda: self.knowledge.meet_all(),
        )

    def _make_forwards(self) -> ForwardHandler:
        return ForwardHandler(
            engine=self.ports.engine,
            tenants=self.tenants,
            draining=lambda: self.draining,
            confirmed=self.confirmation.event.is_set,
            is_revoked=self.keeper.revokes,
            expected_cached_tokens=self.router.expected_cached_tokens,
            expected_start_s=self.router.expected_start_s,
            serves=self.engine_tenants.serves,
        )

    def _make_certificate_watch(self) -> CertificateWatch:
        return CertificateWatch(
            peers=self.peers,
            clock=self.ports.clock,
            renewer=self.renewer,
            judge=self.admission.judge,
            leaf_of=self.knowledge.gossip.leaf_of,
            last_words=self.keeper.against,
        )

    def _make_desk(self) -> IssuerDesk | None:
        if self.config.issuer is None:
            return None
        return IssuerDesk(
            self.config.issuer,
            self.identity,
            self.ports.clock,
            self.ports.entropy,
            self.knowledge.learn_epoch,
            lambda: self.revocations,
            self.revoke,
            leaf_s=self.config.leaf_s,
            epochs=lambda: self.knowledge.gossip.epochs,
            heard=lambda: self.confirmation.was_alone or self.knowledge.gossip.epochs.heard,
            trust=lambda: self.trust.now,
            tell_enrolment=self.trust.tell_enrolment,
            statement_of=self.keeper.exchange.statement_of,
        )

    def _make_renewer(self) -> Renewer:
        return Renewer(
            identity=self.identity,
            addresses=self.config.enrolment,
            clock=self.ports.clock,
            entropy=self.ports.entropy,
            enrolment=self.ports.enrolment,
            desk=self.desk,
            peers=self.peers,
            trust=self.trust,
            revocations=lambda: self.revocations,
            learn_revoked=self.revoke,
            keep=self.config.keep,
            adopt=self._adopt,
        )

    def engine_posture(self) -> list[tuple[str, str]]:
        """What was found of this host's engine, and what is degraded, for its owner."""
        return [
            *self.trust.posture(),
            *self.renewer.posture(),
            *self.ports.engine.posture(),
            *self.engine_tenants.posture(),
            *self.knowledge.posture(),
            *(line for told in self.notices for line in told()),
        ]

    async def _serve_forward(self, connection: Connection, stream: Stream) -> None:
        self._serving += 1
        try:
            await self.forwards(connection, stream)
        finally:
            self._serving -= 1

    def client_handler(self, authenticate: Callable[[str], Principal]) -> ClientHandler:
        """Serves ``/rhizome/client/1`` for callers that ``authenticate`` knows."""
        return ClientHandler(
            ingress=self.ingress,
            authenticate=authenticate,
            quotas=self.quotas,
            draining=lambda: self.draining,
            clock=self.ports.clock,
            entropy=self.ports.entropy,
        )

    # -- who is revoked

    @property
    def revocations(self) -> RevocationSet:
        """What is revoked, as far as this host knows."""
        return self.keeper.known

    def revoke(self, statements: Iterable[bytes], issuers: Sequence[bytes] = ()) -> None:
        """Takes statements in, enforces them here, and tells every peer that is up.

        Args:
            statements: As they were signed.
            issuers: Certificates of issuers that may be new to this host.

        Raises:
            ProtocolError: When one is not to be believed.
            LimitExceeded: When there is no room for some: the others are enforced all the same.
        """
        self.keeper.learn(statements, issuers)

    def _on_revoked(self) -> None:
        self.certificates.judge_all()
        self.knowledge.on_revoked()
        if self.standing.look():
            self.renewer.look_elsewhere()
        self.confirmation.look()

    # -- connections

    def hello(self) -> Hello:
        """What we say of ourselves on every connection."""
        issues = self.desk is not None and not self.keeper.revokes(self.desk.issuer_id)
        return Hello(
            features=FEATURE_ISSUES if issues else 0,
            role=Role.PEER,
            overlay_id=self.trust.now.overlay_id,
            peer_id=self.peer_id,
            generation=self.generation,
            boot_salt=self.boot_salt,
            windows=self.config.limits.windows,
            revocations_digest=self.revocations.digest,
            unix_s=self.ports.clock.unix_s(),
            zone=self.config.zone,
        )

    def _on_believed(self, before: Trust) -> None:
        """Other roots or issuers are believed than before."""
        self.identity = replace(self.identity, trust=self.trust.now)
        if self.trust.now.roots != before.roots:
            self.ports.transport.show(*self.identity.shown)
            self.certificates.judge_all()
        self.renewer.on_trust()

    def _adopt(self, identity: Identity) -> None:
        """This host has another certificate: new handshakes and a new record show it."""
        self.identity = identity
        self.trust.learn(issuers=[identity.issuer])
        self.ports.transport.show(*identity.shown)
        self.knowledge.gossip.adopt(identity)

    def _on_up(self, connection: Connection) -> None:
        peer_id = connection.remote.peer_id
        if peer_id is not None:
            self.router.on_up(peer_id, connection.remote.hello.generation)
            self.trust.on_up(connection)
            self.keeper.on_up(connection)
            self.knowledge.on_up(connection)
            self.renewer.on_up(connection)
            self.certificates.changed()

    def _on_down(self, peer_id: PeerId) -> None:
        self.router.on_down(peer_id)
        self.knowledge.on_down(peer_id)

    def _on_self(self, connection: Connection) -> None:
        """Our own identity at the other end: ourselves, or a copy of our folder."""
        hello = connection.remote.hello
        self.clones.on_met(hello.generation, hello.boot_salt)

    def _next_generation(self, above: int = 0) -> int:
        return next_generation(
            self.ports.storage,
            self.ports.clock,
            above=above,
            leaf_ends_unix_s=parse_leaf(self.identity.leaf).not_after_unix_s,
        )

    def _jump(self, above: int) -> None:
        self.generation = self._next_generation(above)
        log.warning("this identity was met with another process's generation; ours is new now")
        self.knowledge.restart(self.generation)
        self.peers.drop_all("new generation")

    # -- life

    async def run(
        self,
        faces: Sequence[Face],
        *,
        task_status: trio.TaskStatus[Node] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Runs until cancelled or until somebody asked the peer to leave."""
        hints, found = trio.open_memory_channel[PeerHint](HINTS_MAX)
        for epoch in self.config.epochs:
            self.knowledge.learn_epoch(epoch)
        async with trio.open_nursery() as nursery:
            await nursery.start(self.ports.engine.run)
            self.trust.on_change = self._on_believed
            self.trust.revocations = lambda: self.revocations
            if self.desk is not None:
                self.trust.learn(issuers=[self.desk.authority.issuer.der])
            self.renewer.on_trust()
            await nursery.start(self.renewer.run)
            self.addresses = self.config.advertise(
                await nursery.start(self.peers.run, self.config.listen)
            )
            await nursery.start(self.trust.run, self.peers)
            await nursery.start(self.keeper.run, self.peers)
            if self.desk is not None:
                self.desk.say_again(self.keeper.exchange.orphaned())
            self.confirmation.look()
            await nursery.start(self.knowledge.run, self.addresses)
            await nursery.start(self.ports.discovery.run, self.peer_id, self.addresses, hints)
            nursery.start_soon(self._take_hints, found)
            nursery.start_soon(self.certificates.run)
            nursery.start_soon(self.confirmation.run)
            nursery.start_soon(self.clones.run)
            enrolment, addresses = self.ports.enrolment, lambda: self.renewer.addresses
            nursery.start_soon(RootSeeker(self.trust, self.peers, enrolment, addresses).run)
            for face in faces:
                await nursery.start(face, self)
            task_status.started(self)
            await self.leaving.wait()
            await self.drain()
            nursery.cancel_scope.cancel()

    async def drain(self) -> None:
        """Takes nothing new, lets what runs finish for at most ``drain_s``, and says goodbye."""
        self.draining = True
        with trio.move_on_after(self.config.drain_s):
            # The engine may be done with a request whose last tokens are still to be sent.
            while self.ingress.open_requests or self._serving:
                await trio.sleep(DRAIN_POLL_S)
        async with trio.open_nursery() as nursery:
            for peer_id in self.peers.up():
                connection = self.peers.connection(peer_id)
                if connection is not None:
                    nursery.start_soon(connection.aclose, 0, "leaving")

    async def _take_hints(self, found: trio.MemoryReceiveChannel[PeerHint]) -> None:
        async for hint in found:
            self.peers.hint(hint)


Face = Callable[..., Awaitable[None]]
"""Something that listens for one node: called with it and ``task_status`` in the node's nursery."""


async def run(
    config: NodeConfig,
    ports: Ports,
    *,
    faces: Sequence[Face] = (),
    task_status: trio.TaskStatus[Node] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Runs one peer until cancelled, or until ``Node.leaving`` is set and it has drained.

    Args:
        config: Its settings and identity.
        ports: All that it takes from outside; a simulation gives others than ``rhizome peer``.
        faces: What listens for clients beside the overlay port.
        task_status: Started with the running :class:`Node`.

    Raises:
        StorageError: When its generation cannot be stored.
        ClonedHost: When another process with this host's identity is seen to run as well.
        OSError: When an address cannot be listened on.
    """
    await Node(config, ports).run(faces, task_status=task_status)


__all__ = ["Face", "Node", "NodeConfig", "run"]
