"""``rhizome peer``: puts the real ports together and runs one node until it is told to stop."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import click
import trio

from overlay.choices import LogFormat
from overlay.commands.options import existing_home, home_option
from overlay.config import PeerConfig, config_options, load_config
from overlay.crashes import say_no_more_than_places
from overlay.discovery.combined import make_discovery
from overlay.discovery.interfaces import (
    Interface,
    advertised_addresses,
    choose,
    list_interfaces,
    listen_addresses,
)
from overlay.engines import make_engine
from overlay.errors import ConfigError
from overlay.faces import Faces
from overlay.gossip.gossip import GossipConfig
from overlay.home import Home, HomeFile
from overlay.identity import Identity, load_identity, read_enrolment, store_bundles, store_renewed
from overlay.ingress import IngressLimits
from overlay.logs import configure_logging
from overlay.node import NodeConfig, run
from overlay.parent import watch_parent
from overlay.ports import Engine, Ports
from overlay.quotas import Quota, QuotaLimits
from overlay.storage import SqliteStorage
from overlay.system import SystemClock, SystemEntropy
from overlay.transport.enrolment import TlsEnrolment
from overlay.transport.limits import Limits
from overlay.transport.tcp import TlsTransport
from security.authority_state import authority_from_bytes

log = logging.getLogger(__name__)


@click.command("peer")
@config_options()
@home_option
@click.option("--with-parent", is_flag=True, hidden=True)
def command(home: str | None, flags: Mapping[str, object], *, with_parent: bool) -> None:
    """Run this host's peer: serve its clients, and requests of the other peers.

    Ctrl-C lets running requests finish first; a second Ctrl-C ends it at once.

    \b
    Example: rhizome peer --interface lo --engine toy
    """  # noqa: D301 - click's mark
    folder = existing_home(home)
    config = load_config(folder.config_path, flags)
    configure_logging(as_json=config.log is LogFormat.JSON, level=config.log_level.value)
    say_no_more_than_places()
    identity = load_identity(folder)
    issues = folder.read(HomeFile.AUTHORITY) is not None
    trouble = identity.check_dates(SystemClock().unix_s(), issues=issues)
    if trouble is not None:
        raise ConfigError(trouble)
    with folder.locked():
        trio.run(partial(serve, folder, config, identity, with_parent=with_parent))


async def serve(home: Home, config: PeerConfig, identity: Identity, *, with_parent: bool) -> None:
    """Runs the node under the signals that end it."""
    async with trio.open_nursery() as nursery:
        stop = trio.Event()
        await nursery.start(watch_signals, nursery.cancel_scope, stop)
        if with_parent:
            nursery.start_soon(watch_parent, stop)
        interfaces = list(choose(list_interfaces(), config.interfaces))
        engine = make_engine(config, say_progress(), SystemEntropy())
        ports = make_ports(home, config, identity, interfaces, engine)
        faces = Faces(home, config, interfaces, stop)
        node_config = make_node_config(home, config, identity, interfaces)
        await run(node_config, ports, faces=(faces.serve,))
        nursery.cancel_scope.cancel()


def make_ports(
    home: Home,
    config: PeerConfig,
    identity: Identity,
    interfaces: list[Interface],
    engine: Engine,
) -> Ports:
    """The real ports."""
    clock, entropy = SystemClock(), SystemEntropy()
    return Ports(
        clock=clock,
        entropy=entropy,
        transport=TlsTransport(identity.credentials, source_address=config.source_address),
        discovery=make_discovery(
            config,
            overlay_id=identity.trust.overlay_id,
            interfaces=interfaces,
            entropy=entropy,
        ),
        storage=SqliteStorage(home.database_path),
        engine=engine,
        enrolment=TlsEnrolment(source_address=config.source_address),
    )


def make_node_config(
    home: Home, config: PeerConfig, identity: Identity, interfaces: list[Interface]
) -> NodeConfig:
    """What the node is told, from the settings."""
    stored = home.read(HomeFile.AUTHORITY)
    founded = stored is not None and authority_from_bytes(stored).founded
    return NodeConfig(
        identity=identity,
        epochs=tuple(home.read_epochs().values()),
        listen=listen_addresses(config, interfaces),
        advertise=lambda bound: advertised_addresses(config, bound, interfaces),
        policy=config.policy.value,
        zone=config.zone,
        zone_rules=config.zone_rules,
        ingress=IngressLimits(budget_s=config.forward_budget_s, silence_s=config.silence_s),
        quotas=quota_limits(config),
        gossip=GossipConfig(period_s=config.gossip_period_s, anti_entropy_s=config.anti_entropy_s),
        limits=replace(Limits(), ping_every_s=config.ping_s),
        engine_tenant=config.engine_tenant,
        engine_shared=config.engine_shared_by_tenants,
        isolation=None if config.engine.is_remote else config.isolation,
        allow_variants=config.allow_variants,
        drain_s=config.drain_s,
        issuer=None if stored is None else home,
        leaf_s=config.leaf_s,
        enrolment=read_enrolment(home),
        keep=partial(store_renewed, home),
        keep_roots=partial(store_bundles, home),
        # Only the host that founded an overlay can be its only one.
        expects_others=not founded or bool(config.bootstrap),
    )


def quota_limits(config: PeerConfig) -> QuotaLimits:
    """What one token and one tenant may use here, from the settings."""
    return QuotaLimits(
        token=Quota(
            requests_per_min=config.token_requests_per_min,
            prompt_tokens_per_min=config.token_prompt_tokens_per_min,
            concurrent=config.token_concurrent,
        ),
        tenant=Quota(
            requests_per_min=config.tenant_requests_per_min,
            prompt_tokens_per_min=config.tenant_prompt_tokens_per_min,
            concurrent=config.tenant_concurrent,
        ),
    )


def say_progress() -> Callable[[str, float], None]:
    """Logs each stage of loading once, and every tenth of a long one."""
    said: dict[str, int] = {}

    def say(what: str, share: float) -> None:
        tenth = int(share * 10)
        if said.get(what, -1) < tenth:
            said[what] = tenth
            log.info("%s: %d %%", what, 100 * share)

    return say


async def watch_signals(
    scope: trio.CancelScope,
    stop: trio.Event,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """The first SIGINT or SIGTERM asks to drain, the second one ends at once."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            if stop.is_set():
                log.warning("stopping at once")
                scope.cancel()
                return
            log.info("draining; once more to stop at once")
            stop.set()
