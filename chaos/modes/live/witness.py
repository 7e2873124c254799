"""What is seen of live nodes: from what they tell of themselves, and from their logs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import trio

from chaos.history import What
from chaos.modes.live.cluster import LiveCluster, LiveHost
from chaos.modes.live.orders import State
from chaos.scenario.prompts import canary
from chaos.scenario.selectors import members
from security.tenant import TenantId

LOOK_S = 0.5
HEAR_S = 0.05
GAUGE_EVERY = 8
FRESH_S = 5.0
"""A state that is older is of a node that stands still."""


@dataclass(frozen=True, slots=True)
class _Pair:
    observer: LiveHost
    origin: LiveHost
    tenant: str
    tenant_id: str


class LiveWitness:
    """Writes facts to the history of a run. Plain peers tell nothing, and nothing is written."""

    def __init__(self, cluster: LiveCluster, tenant_ids: Mapping[str, TenantId]) -> None:
        self._cluster = cluster
        self._tenant_ids = tenant_ids
        self._agreed: tuple[int, int] | None = None
        self._shown: dict[tuple[str, str], float] = {}
        self._seen: dict[str, tuple[int, dict[str, int]]] = {}
        self._baselines: dict[tuple[str, str], float] = {}

    async def watch(self) -> None:
        """Looks until cancelled."""
        looks = 0
        while True:
            await trio.sleep(LOOK_S)
            self._look_at_agreement()
            self._look_for_landmarks()
            looks += 1
            if looks % GAUGE_EVERY == 0:
                self._look_at_gauges(last=False)

    def storm_begins(self) -> None:
        """What gauges must return to is what they are now."""
        for host in self._cluster.hosts.values():
            if host.state is not None:
                for name in RETURNS & host.state.gauges.keys():
                    self._baselines[host.name, name] = host.state.gauges[name][0]

    # -- agreement

    def _fresh(self, host: LiveHost) -> State | None:
        if not host.runs or trio.current_time() - host.state_s > FRESH_S:
            return None
        return host.state

    def _pairs(self) -> Iterator[_Pair]:
        plan = self._cluster.schedule.cluster
        core = [host for host in self._cluster.core() if host.runs]
        for tenant, tenant_id in self._tenant_ids.items():
            inside = [host for host in core if host.name in members(tenant, plan)]
            for observer in inside:
                for origin in inside:
                    if observer is not origin:
                        yield _Pair(observer, origin, tenant, tenant_id)

    def _agree(self, pair: _Pair) -> bool:
        mine, theirs = self._fresh(pair.origin), self._fresh(pair.observer)
        if mine is None or theirs is None:
            return False
        published = mine.mine.get(pair.tenant_id)
        known = theirs.known.get(f"{pair.origin.peer_id}|{pair.tenant_id}")
        if published is None or published.count == 0:
            return known is None or known.count == 0
        return known is not None and known.digest == published.digest

    def _look_at_agreement(self) -> None:
        if self._cluster.schedule.cluster.plain_peers:
            return
        agree = [self._agree(pair) for pair in self._pairs()]
        if self._agreed != (len(agree), sum(agree)):
            self._agreed = (len(agree), sum(agree))
            self._cluster.history.add(What.AGREEMENT, "", pairs=len(agree), agreeing=sum(agree))

    async def hear_all(self, since_s: float) -> None:
        """Waits until every node of the core has told of itself, or stands still."""
        if self._cluster.schedule.cluster.plain_peers:
            return
        with trio.move_on_after(FRESH_S):
            while not all(host.state_s > since_s for host in self._cluster.core()):
                await trio.sleep(HEAR_S)

    def converged(self, since_s: float) -> bool:
        """Whether everybody knows what everybody holds, of the core, by what was told since."""
        states = [self._fresh(host) for host in self._cluster.core()]
        if any(host.state_s <= since_s for host in self._cluster.core()) or None in states:
            return False
        if not all(self._agree(pair) for pair in self._pairs()):
            return False
        true = (0, 0)
        return all(truth == true for state in states if state for truth in state.truth.values())

    def settled(self) -> None:
        """Writes what is not as it should be."""
        if self._cluster.schedule.cluster.plain_peers:
            return
        self._look_at_agreement()
        for pair in self._pairs():
            if not self._agree(pair):
                missing, extra = self._difference(pair)
                self._cluster.history.add(
                    What.DIVERGED,
                    pair.observer.name,
                    origin=pair.origin.name,
                    tenant=pair.tenant,
                    missing=missing,
                    extra=extra,
                )
        for host in self._cluster.core():
            if host.state is not None and host.runs:
                self._claims(host, host.state)
        self._look_at_gauges(last=True)

    def _difference(self, pair: _Pair) -> tuple[int, int]:
        """How many prefixes are lacking and too many, at least: live nodes tell counts only."""
        mine = pair.origin.state.mine if pair.origin.state else {}
        known = pair.observer.state.known if pair.observer.state else {}
        published = mine.get(pair.tenant_id)
        replica = known.get(f"{pair.origin.peer_id}|{pair.tenant_id}")
        more = (published.count if published else 0) - (replica.count if replica else 0)
        return max(1, more), max(0, -more)

    def _claims(self, host: LiveHost, state: State) -> None:
        for tenant, tenant_id in self._tenant_ids.items():
            if tenant_id not in state.truth:
                continue
            phantom, unpublished = state.truth[tenant_id]
            if phantom or unpublished:
                self._cluster.history.add(What.MARK, "claims_differ", node=host.name)
            self._cluster.history.add(
                What.CLAIMS,
                host.name,
                tenant=tenant,
                phantom=phantom,
                unpublished=unpublished,
                truncated=False,
            )

    # -- landmarks and gauges

    def _look_for_landmarks(self) -> None:
        for host in self._cluster.hosts.values():
            state = self._fresh(host)
            if state is None:
                continue
            seqs = {tenant: published.seq for tenant, published in state.mine.items()}
            before = self._seen.get(host.name)
            self._seen[host.name] = (state.evictions, seqs)
            if before is None:
                continue
            if state.evictions > before[0]:
                self._cluster.history.add(What.LANDMARK, "evicted", node=host.name)
            if any(seq > before[1].get(tenant, 0) for tenant, seq in seqs.items()):
                self._cluster.history.add(What.LANDMARK, "digest_published", node=host.name)

    def _look_at_gauges(self, *, last: bool) -> None:
        for host in self._cluster.hosts.values():
            if host.state is None or not host.runs:
                continue
            for name, (value, cap) in host.state.gauges.items():
                key = (host.name, name)
                if not last and self._shown.get(key) == value:
                    continue
                self._shown[key] = value
                self._cluster.history.add(
                    What.GAUGE,
                    host.name,
                    name=name,
                    value=value,
                    cap=cap,
                    baseline=self._baselines.get(key, 0.0) if name in RETURNS else None,
                )

    # -- afterwards

    def look_for_leaks(self) -> None:
        """No prompt may be in any log."""
        for host in self._cluster.hosts.values():
            log = host.home.with_suffix(".log")
            said = log.read_bytes() if log.exists() else b""
            for tenant in self._tenant_ids:
                if canary(tenant).encode() in said:
                    self._cluster.history.add(
                        What.LEAK, host.name, tenant=tenant, where="prompt in its log"
                    )


RETURNS = frozenset({"bookings"})
"""Gauges of ``chaos/observe/gauges.py`` that must come back after healing."""
