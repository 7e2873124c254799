"""State folders of live nodes: an overlay is founded here, so that no peer need run for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos.scenario.scenario import Cluster
from chaos.scenario.selectors import members
from overlay.home import Home
from overlay.identity import store_epoch, store_identity
from overlay.system import SystemClock, SystemEntropy
from security.authority import Authority
from security.keys import HostKeys
from security.peer_id import PeerId
from security.tenant import TenantId


@dataclass(frozen=True, slots=True)
class Founded:
    """The overlay of one run. ``homes`` and ``peer_ids`` are by node, ``tenants`` ids by name."""

    homes: Mapping[str, Path]
    peer_ids: Mapping[str, PeerId]
    tenants: Mapping[str, TenantId]


def found(plan: Cluster, folder: Path) -> Founded:
    """Founds an overlay and writes a state folder for each node.

    Raises:
        HomeError: Where a folder cannot be written.
    """
    now_unix_s, secret = SystemClock().unix_s(), SystemEntropy().secret
    authority = Authority.create(secret, now_unix_s, plan.tenants)
    keys = {name: HostKeys.generate(secret) for name in plan.names}
    grants = {}
    for name in plan.names:
        ids = tuple(authority.tenant_id(tenant) for tenant in _tenants_of(name, plan))
        authority, grants[name] = authority.enrol(
            keys[name].peer_id, keys[name].sealing_public, ids, secret, now_unix_s
        )
    homes = {}
    for name in plan.names:
        home = Home.create(folder / name)
        # Rosters of the first members do not name the later ones yet.
        store_identity(home, keys[name], grants[name], now_unix_s)
        for epoch in authority.epochs:
            store_epoch(home, epoch, authority.trust, now_unix_s)
        homes[name] = home.path
    peer_ids = {name: keys[name].peer_id for name in plan.names}
    return Founded(homes, peer_ids, {each: authority.tenant_id(each) for each in plan.tenants})


def _tenants_of(name: str, plan: Cluster) -> Sequence[str]:
    return [tenant for tenant in plan.tenants if name in members(tenant, plan)]
