"""Founds the overlay of a schedule: hosts, identities, network. No peer runs yet."""

from __future__ import annotations

import trio

from chaos.clock import VirtualClock
from chaos.entropy import SeededEntropy
from chaos.founding import found
from chaos.history import History
from chaos.issuing import MemoryFiles
from chaos.modes.node.cluster import SimCluster, SimHost
from chaos.modes.toy import toy_of
from chaos.network import Network
from chaos.pipe import Link
from chaos.scenario.schedule import Schedule
from chaos.scenario.selectors import members
from chaos.storage import SimStorage
from chaos.trace import Trace
from security.certificate import LEAF_LIFETIME_S_MAX

FOUNDED_BEFORE_S = 40 * 86_400.0
"""The overlay is so old when a run begins: no clock fault takes a host to before its beginning.
Certificates last so much longer that none takes a host past its end."""


def make_cluster(schedule: Schedule, history: History, nursery: trio.Nursery) -> SimCluster:
    """Founds the overlay of a schedule; no peer runs yet."""
    plan = schedule.cluster
    network = Network(Trace(), Link(delay_s=plan.delay_ms / 1000))
    of_tenant = {tenant: members(tenant, plan) for tenant in plan.tenants}
    its_tenants = {
        name: tuple(tenant for tenant in plan.tenants if name in of_tenant[tenant])
        for name in plan.names
    }
    addresses = {name: f"10.0.0.{number}" for number, name in enumerate(plan.names, start=1)}
    authority, identities = found(
        {addresses[name]: its_tenants[name] for name in plan.names},
        plan.tenants,
        entropy=lambda purpose: SeededEntropy(schedule.seed, purpose),
        now_unix_s=VirtualClock().unix_s() - (0 if plan.certificate_s else FOUNDED_BEFORE_S),
        leaf_s=plan.certificate_s or LEAF_LIFETIME_S_MAX,
    )
    cluster = SimCluster(
        schedule=schedule, history=history, network=network, nursery=nursery, authority=authority
    )
    for name, address in addresses.items():
        identity = identities[address]
        cluster.hosts[name] = SimHost(
            name=name,
            address=address,
            tenants=its_tenants[name],
            toy=toy_of(schedule, name),
            identity=identity,
            epochs=authority.epochs,
            storage=SimStorage(trio.current_time),
            clock=VirtualClock(),
        )
        cluster.identities[identity.peer_id] = name
    if plan.certificate_s:
        cluster.hosts[plan.names[0]].files = MemoryFiles(authority)
    return cluster
