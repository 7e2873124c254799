"""The overlays that are attacked: simulated ones under virtual time, real ones over loopback."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from chaos.founding import found
from chaos.simulation import run_simulation
from chaos.storage import SimStorage
from chaos.world import Host, World
from inference.toy import ToyConfig, ToyEngine
from inference.worker import EngineWorker
from overlay.address import Address
from overlay.discovery.bootstrap import BootstrapDiscovery
from overlay.gossip.gossip import GossipConfig
from overlay.node import Node, NodeConfig, run
from overlay.ports import Engine, Ports
from overlay.system import SystemClock, SystemEntropy
from overlay.transport.tcp import TlsLimits, TlsTransport
from tests.attacks.victim import ALPHA, BETA, Victim

TOY = ToyConfig(slots=4, prefill_tokens_per_s=5000.0, decode_s_per_token=0.005, end_every=0)
QUICK = ToyConfig(prefill_tokens_per_s=1e9, decode_s_per_token=0.0, end_every=0)
SOON_S = 120.0

Main = Callable[..., Awaitable[None]]


def simulated(main: Main) -> Callable[..., None]:
    """A test that runs under virtual time."""

    @functools.wraps(main)
    def test(*args: object, **kwargs: object) -> None:
        run_simulation(1, lambda: main(*args, **kwargs))

    return test


@asynccontextmanager
async def honest_overlay(
    *,
    guest: bool = False,
    engine: Callable[[], Engine] | None = None,
    issues: bool = False,
    **settings: object,
) -> AsyncIterator[Victim]:
    """Two simulated hosts of both tenants that know each other; the first may be the issuer's.

    The guest runs where asked for, with that ``engine`` where one is given.
    """
    world = World(1, node_settings=settings)
    world.found([TOY, TOY, engine or TOY], (ALPHA, BETA), {2: (ALPHA,)})
    if issues:
        world.issue_at(world.hosts[0])
    async with _running(world, guest=guest or engine is not None) as victim:
        yield victim


@asynccontextmanager
async def real_overlay(tls: TlsLimits | None = None) -> AsyncIterator[Victim]:
    """The same hosts with sockets on loopback, TLS and the system's clock; the guest is off."""
    world = RealWorld(1, tls=tls or TlsLimits())
    world.found_now()
    with trio.fail_after(SOON_S):
        async with _running(world, guest=False) as victim:
            yield victim


@asynccontextmanager
async def _running(world: World, *, guest: bool) -> AsyncIterator[Victim]:
    victim = Victim(world)
    async with world.started(None if guest else victim.honest):
        await victim.settle()
        yield victim


@dataclass
class RealWorld(World):
    """``chaos.world.World`` with real ports."""

    tls: TlsLimits = field(default_factory=TlsLimits)

    def found_now(self) -> None:
        """Certificates of today, as OpenSSL looks at the system's clock."""
        members = {"a": (ALPHA, BETA), "b": (ALPHA, BETA), "guest": (BETA,)}
        authority, identities = found(
            members, (ALPHA, BETA), entropy=self.entropy, now_unix_s=SystemClock().unix_s()
        )
        for name, identity in identities.items():
            self.hosts.append(Host(name, identity, authority.epochs, SimStorage(), QUICK))
        self.authority = authority

    async def _run(
        self, host: Host, *, task_status: trio.TaskStatus[Node] = trio.TASK_STATUS_IGNORED
    ) -> None:
        entropy = SystemEntropy()
        others = [each.running.addresses[0] for each in self.hosts if each.node is not None]
        assert isinstance(host.engine, ToyConfig)
        ports = Ports(
            clock=SystemClock(),
            entropy=entropy,
            transport=TlsTransport(host.identity.credentials, limits=self.tls),
            discovery=BootstrapDiscovery(others, entropy),
            storage=host.storage,
            engine=EngineWorker(ToyEngine(host.engine), in_thread=False),
        )
        config = NodeConfig(
            identity=host.identity,
            epochs=host.epochs,
            listen=(Address("127.0.0.1", 0),),
            gossip=GossipConfig(period_s=0.02, anti_entropy_s=0.1),
            policy="local",  # what is cached where does not hang on measured times
        )
        with trio.CancelScope() as host.scope:
            await run(config, ports, task_status=task_status)
        host.node = None
