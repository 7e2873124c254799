"""The overlay's root, changed under load."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from weakref import WeakKeyDictionary

import trio

from chaos.faults import security
from chaos.faults.fault import Fault
from chaos.history import What
from chaos.modes.effects import Effects, Missed
from chaos.modes.node.actions.action import Action
from chaos.modes.node.actions.background import beside
from chaos.modes.node.cluster import SimCluster, SimHost
from chaos.rotation import take_roots
from chaos.scenario.schedule import PlannedFault
from overlay.node import Node
from security.certificate import RootKey, make_next_root, parse_root
from security.keys import Secret
from security.root_bundle import Roots, next_bundle, number_after

LOOK_S = 0.25

LET_GO = "root_let_go"
"""A mark: every host had the new root, and the old one was let go."""


KEYS: WeakKeyDictionary[SimCluster, list[RootKey]] = WeakKeyDictionary()
"""Of the roots in force, the newest last: what an owner would have on two media."""


def root_keys(cluster: SimCluster) -> list[RootKey]:
    """Those of a cluster whose root was never changed."""
    root = cluster.authority.root
    return [root] if isinstance(root, RootKey) else []


class _Change:
    """One rotation. What ``teller`` has is on its disk, as on the host of an issuer.

    An overlap that could not end in the fault before goes on with this one.
    """

    def __init__(self, cluster: SimCluster, planned: PlannedFault, effects: Effects) -> None:
        self._cluster = cluster
        self._planned = planned
        self._effects = effects
        self.teller = planned.nodes[0]
        self._heard: set[str] = set()
        self.roots = self._newest()
        self._keys = KEYS.setdefault(cluster, root_keys(cluster))

    def _newest(self) -> Roots:
        known = [host.identity.trust.roots for host in self._cluster.hosts.values()]
        return max(known, key=lambda roots: roots.number)

    def begin(self) -> None:
        """Both roots are in force."""
        if not self.roots.overlap:
            number, secret = number_after(self.roots), self._secret()
            new = make_next_root(self.roots.overlay_id, number, secret, self._unix_s())
            self._keys.append(new)
            self._sign(drop=False)

    def _certify(self) -> None:
        """Every host has the new root: it signs the issuer."""
        cluster = self._cluster
        cluster.authority = cluster.authority.with_new_certificate(
            self._keys[-1], self._secret(), self._unix_s()
        )
        self._say()

    def end(self) -> None:
        """Lets the old root go, where nobody needs it; else both stay in force."""
        if not self._all(self._shows_the_newest):
            return
        self._sign(drop=True)
        self._keys.pop(0)
        self._cluster.history.add(What.MARK, LET_GO, fault=self._planned.id)
        self._say()

    def _say(self) -> None:
        host = self._cluster.hosts[self.teller]
        take_roots(host, self.roots.bundles)
        if host.node is not None:
            self.tell(host, host.node)

    def _all(self, holds: Callable[[SimHost], bool]) -> bool:
        return all(map(holds, self._cluster.hosts.values()))

    def _has_the_newest(self, host: SimHost) -> bool:
        return host.identity.trust.roots.number >= self.roots.number

    def _shows_the_newest(self, host: SimHost) -> bool:
        newest = parse_root(self.roots.newest).root_id
        return self.roots.former_issuer(host.identity.issuer).root_id == newest

    def tell(self, _host: SimHost, node: Node) -> None:
        """The teller knows at once, and at every later start."""
        node.trust.learn(roots=self.roots.bundles, issuers=[self._cluster.authority.issuer.der])

    async def watch(self) -> None:
        """Counts the hosts that have taken it."""
        while True:
            for host in self._cluster.running():
                if self._has_the_newest(host) and host.name not in self._heard:
                    self._heard.add(host.name)
                    self._effects.add()
            signed = self._cluster.authority.root.der == self.roots.newest
            if not signed and self._all(self._has_the_newest):
                self._certify()
            await trio.sleep(LOOK_S)

    def _sign(self, *, drop: bool) -> None:
        old, new = self._keys
        self.roots = self.roots.learn([next_bundle(self.roots, old, new, drop=drop)])

    def _secret(self) -> Secret:
        return self._cluster.entropy(f"root {self.roots.number}").secret

    def _unix_s(self) -> float:
        return self._cluster.hosts[self.teller].clock.unix_s()


@asynccontextmanager
async def _root_rotated(
    cluster: SimCluster, planned: PlannedFault, effects: Effects
) -> AsyncIterator[None]:
    if any(host.files for host in cluster.hosts.values()):
        raise Missed("an issuer's state is on one of the hosts, which this does not change")
    if set(planned.nodes) & cluster.revoked:
        raise Missed("the teller is revoked")
    change = _Change(cluster, planned, effects)
    change.begin()
    try:
        with cluster.each_boot([change.teller], change.tell):
            async with beside(change.watch):
                yield
    finally:
        change.end()


ACTIONS: dict[type[Fault], Action] = {security.RootRotated: _root_rotated}
