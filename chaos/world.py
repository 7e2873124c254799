"""Whole peers in one process: an overlay of hosts on an in-memory network, under virtual time.

Each host is ``overlay.node.run`` with simulated ports; nothing of the product is replaced above
them. Hosts can be killed, restarted, frozen and partitioned through :class:`World`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import trio

from chaos.clock import SIMULATION_EPOCH_UNIX_S, VirtualClock
from chaos.entropy import SeededEntropy
from chaos.founding import another_issuer, enrol, found
from chaos.issuing import ENROL_PORT, EnrolmentFace, MemoryFiles, SimEnrolment
from chaos.network import Network, SimDiscovery, SimTransport
from chaos.remote_toy import core_of
from chaos.rotation import take_roots
from chaos.storage import SimStorage
from chaos.trace import Trace
from inference.none import no_engine
from inference.toy import ToyConfig
from inference.worker import EngineWorker
from overlay.address import Address
from overlay.body import parse_chat
from overlay.clones import ClonedHost
from overlay.discovery.bootstrap import BootstrapDiscovery
from overlay.identity import Identity
from overlay.node import Node, NodeConfig, run
from overlay.ports import Engine, Ports
from overlay.request import (
    AnswerEvent,
    Delta,
    Finished,
    Principal,
    RequestId,
    Scope,
    Submission,
)
from security.authority import Authority
from security.certificate import LEAF_LIFETIME_S, RootKey, parse_leaf, renew_issuer
from security.revocation import make_revocation

PORT = 7401
CLIENT_ID = "test"
REQUEST_TIMEOUT_S = 120.0

AnyEngine = ToyConfig | Callable[[], Engine] | None
"""A toy of that kind; one that is made at each start; or none, for an ingress only."""


@dataclass
class Host:
    """One host: what survives its peer (identity, disk) and, while it runs, its node.

    ``files`` are the issuer's, on its host. ``bootstrap`` are addresses by which it finds others
    from its next start on, where no multicast reaches it.
    """

    name: str
    identity: Identity
    epochs: tuple[bytes, ...]
    storage: SimStorage
    engine: AnyEngine
    node: Node | None = None
    scope: trio.CancelScope | None = None
    starts: int = 0
    files: MemoryFiles | None = None
    bootstrap: tuple[Address, ...] = ()

    @property
    def running(self) -> Node:
        assert self.node is not None, f"{self.name} is not running"
        return self.node


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A whole answer, as a client saw it."""

    text: str
    token_ids: tuple[int, ...]
    finished: Finished


@dataclass
class World:
    """An overlay of hosts named by their addresses (``10.0.0.1`` …)."""

    seed: int
    trace: Trace = field(default_factory=Trace)
    network: Network = field(init=False)
    hosts: list[Host] = field(default_factory=list)
    nursery: trio.Nursery | None = None
    node_settings: dict[str, object] = field(default_factory=dict)
    authority: Authority | None = None
    leaf_s: float = LEAF_LIFETIME_S
    clock_offset_s: float = 0.0
    """By how much the wall clock is wrong of hosts that are started from now on."""

    cloned: list[str] = field(default_factory=list)
    """Hosts whose peer has ended because another process has its identity."""

    def __post_init__(self) -> None:
        self.network = Network(self.trace)

    def entropy(self, purpose: str) -> SeededEntropy:
        """A stream of its own for every purpose, so that one more draw moves no other."""
        return SeededEntropy(self.seed, purpose)

    def found(
        self,
        engines: Sequence[AnyEngine],
        tenants: Sequence[str],
        outside: Mapping[int, Sequence[str]] | None = None,
    ) -> None:
        """Makes the overlay and its hosts; an engine of None makes an ingress only.

        Every host is a member of every tenant but those that ``outside`` names for its index.
        """
        members = {
            f"10.0.0.{number}": tuple(
                tenant for tenant in tenants if tenant not in (outside or {}).get(number - 1, ())
            )
            for number in range(1, len(engines) + 1)
        }
        authority, identities = found(
            members,
            tenants,
            entropy=self.entropy,
            now_unix_s=VirtualClock().unix_s(),
            leaf_s=self.leaf_s,
        )
        for (name, identity), engine in zip(identities.items(), engines, strict=True):
            self.hosts.append(Host(name, identity, authority.epochs, SimStorage(), engine))
        self.authority = authority

    def issue_at(self, host: Host, authority: Authority | None = None) -> None:
        """Makes this an issuer's host from its next start on: the first one's, or another's."""
        kept = authority or self.authority
        assert kept is not None
        host.files = MemoryFiles(kept)

    def another_issuer(self, name: str) -> Authority:
        """A second issuer under the overlay's root; ``name`` tells its keys from others'."""
        assert self.authority is not None
        return another_issuer(
            self.authority,
            entropy=self.entropy(f"issuer {name}"),
            now_unix_s=VirtualClock().unix_s(),
        )

    def issuer_under(self, root: RootKey) -> bytes:
        """Another certificate of the overlay's issuer, by this root."""
        assert self.authority is not None
        entropy = self.entropy("renewed issuer")
        return renew_issuer(
            root, self.authority.issuer, entropy.secret, VirtualClock().unix_s()
        ).der

    def enrol_again(
        self, host: Host, authority: Authority, tenants: Sequence[str] = ()
    ) -> Authority:
        """Makes a host one that another issuer enrolled, as it is before it has met anybody."""
        authority, host.identity = enrol(
            authority,
            tenants,
            keys=host.identity.keys,
            entropy=self.entropy(f"enrol {host.name}"),
            now_unix_s=VirtualClock().unix_s(),
            leaf_s=self.leaf_s,
        )
        host.epochs = authority.epochs
        return authority

    def _enrolment(self, identity: Identity) -> tuple[Address, ...]:
        """Where the issuer of a host's certificate listens."""
        named = parse_leaf(identity.leaf).issuer_id
        return tuple(
            Address(host.name, ENROL_PORT)
            for host in self.hosts
            if host.files is not None and host.files.authority.issuer.issuer_id == named
        )

    @asynccontextmanager
    async def started(self, hosts: Sequence[Host] | None = None) -> AsyncIterator[None]:
        """All hosts, or these, run when the block begins; everything ends with it."""
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            for host in self.hosts if hosts is None else hosts:
                await self.start(host)
            yield
            nursery.cancel_scope.cancel()

    def revocation(self, *ids: str) -> list[bytes]:
        """Statements of the issuer that these are revoked, from the beginning on."""
        assert self.authority is not None
        issuer = self.authority.issuer
        return [make_revocation(issuer, each, SIMULATION_EPOCH_UNIX_S) for each in ids]

    async def restart(self, host: Host) -> Node:
        """Kills a host's peer, and starts it once nothing of it runs."""
        self.kill(host)
        await until(lambda: host.node is None)
        return await self.start(host)

    async def start(self, host: Host) -> Node:
        """Starts a host's peer; returns when it listens."""
        assert self.nursery is not None
        host.node = await self.nursery.start(self._run, host)
        self.trace.add(host.name, "started", host.starts)
        return host.running

    async def _run(
        self, host: Host, *, task_status: trio.TaskStatus[Node] = trio.TASK_STATUS_IGNORED
    ) -> None:
        host.starts += 1
        identity = host.identity
        transport = SimTransport(self.network, host.name, *identity.shown)
        entropy = self.entropy(f"entropy {host.name} {host.starts}")
        ports = Ports(
            clock=VirtualClock(self.clock_offset_s),
            entropy=entropy,
            transport=transport,
            enrolment=SimEnrolment(self.network, host.name),
            discovery=(
                BootstrapDiscovery(host.bootstrap, entropy)
                if host.bootstrap
                else SimDiscovery(self.network, host.name)
            ),
            storage=host.storage,
            engine=(
                no_engine()
                if host.engine is None
                else EngineWorker(core_of(host.engine), in_thread=False)
                if isinstance(host.engine, ToyConfig)
                else host.engine()
            ),
        )
        config = NodeConfig(
            identity=identity,
            epochs=host.epochs,
            listen=(Address(host.name, PORT),),
            issuer=host.files,
            leaf_s=self.leaf_s,
            enrolment=self._enrolment(identity),
            keep=lambda renewed, _: setattr(host, "identity", renewed),
            keep_roots=partial(take_roots, host),
            **self.node_settings,  # type: ignore[arg-type]  # fields of NodeConfig
        )
        with trio.CancelScope() as host.scope:
            faces = (EnrolmentFace(transport).serve,)
            try:
                await run(config, ports, faces=faces, task_status=task_status)
            except* ClonedHost:
                self.cloned.append(host.name)
                self.network.kill(host.name)
        host.node = None

    def kill(self, host: Host) -> None:
        """The host is gone at once; its disk keeps what was written."""
        self.trace.add(host.name, "killed")
        self.network.kill(host.name)
        assert host.scope is not None
        host.scope.cancel()

    async def ask(
        self,
        host: Host,
        text: str,
        *,
        tenant: str = "default",
        max_tokens: int = 8,
        events: list[AnswerEvent] | None = None,
    ) -> Answered:
        """One chat request at a host's ingress, greedy and seeded; the whole answer."""
        body = (
            b'{"messages": [{"role": "user", "content": "%s"}], '
            b'"max_tokens": %d, "temperature": 0, "seed": 1}'
        ) % (text.encode(), max_tokens)
        submission = self._submission(host, tenant, body)
        return await self._collect(host, submission, [] if events is None else events)

    async def ask_body(
        self, host: Host, body: Mapping[str, object], *, tenant: str = "default"
    ) -> list[AnswerEvent]:
        """Every event of a chat with that body at a host's ingress."""
        submission = self._submission(host, tenant, json.dumps(body).encode())
        async with host.running.ingress.open(submission) as events:
            return [event async for event in events]

    def _submission(self, host: Host, tenant: str, body: bytes) -> Submission:
        node = host.running
        epoch = node.tenants.named(tenant)
        assert epoch is not None, f"{host.name} is no member of {tenant}"
        return Submission(
            request_id=RequestId(node.ports.entropy.secret(16).hex()),
            principal=Principal(
                tenant=epoch.tenant_id, token_id=CLIENT_ID, scopes=frozenset({Scope.INFER})
            ),
            call=parse_chat(body),
            deadline_s=trio.current_time() + REQUEST_TIMEOUT_S,
        )

    async def _collect(
        self, host: Host, submission: Submission, events: list[AnswerEvent]
    ) -> Answered:
        async with host.running.ingress.open(submission) as answer:
            async for event in answer:
                events.append(event)  # noqa: PERF401 - the caller watches them come
        deltas = [event for event in events if isinstance(event, Delta)]
        finished = [event for event in events if isinstance(event, Finished)]
        assert len(finished) == 1, "a request ends exactly once"
        last = finished[0]
        self.trace.add(
            host.name,
            "answered",
            last.served_by[-6:],
            last.usage.prompt_tokens,
            last.usage.cached_tokens,
            last.usage.completion_tokens,
            last.hops,
            last.resumes,
        )
        ids = [token for delta in deltas for token in delta.token_ids or ()]
        text = "".join(delta.text for delta in deltas)
        return Answered(text=text, token_ids=tuple(ids), finished=last)


@asynccontextmanager
async def world_of(
    seed: int,
    engines: Sequence[AnyEngine],
    *,
    tenants: Sequence[str] = ("default",),
    outside: Mapping[int, Sequence[str]] | None = None,
    **node_settings: object,
) -> AsyncIterator[World]:
    """A running overlay with one host for each engine; everything ends with the block."""
    world = World(seed, node_settings=node_settings)
    world.found(engines, tenants, outside)
    async with world.started():
        yield world


async def until(condition: object, *, timeout_s: float = 60.0, step_s: float = 0.1) -> None:
    """Lets virtual time pass until ``condition()`` holds.

    Raises:
        trio.TooSlowError: When it does not within ``timeout_s``.
    """
    assert callable(condition)
    with trio.fail_after(timeout_s):
        while not condition():
            await trio.sleep(step_s)
