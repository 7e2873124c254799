"""Any order of writes, losses, cuts and restarts: no picture holds what was never published, and
all are right once the network is whole again. The published sets come from a model of their own."""

from __future__ import annotations

import collections

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from overlay.gossip.digest import STRIDE_BLOCKS
from overlay.gossip.replica import Change, Replica
from security.epoch import TenantEpoch
from security.peer_id import PeerId
from security.tags import tags_of
from security.tenant import TenantId
from tests.overlay.gossip.fabric import Fabric, Host, chain

ROSTERS = (("alpha", "beta"), ("alpha",), ("alpha", "beta"))
HEALED_S = 60.0
"""Periods, rounds of anti-entropy with either peer, and some luck with neither."""

Origin = tuple[PeerId, TenantId]


def model_of(host: Host, tenant: TenantEpoch) -> set[int]:
    """What a host should publish: ends, branch points and strides of what it has cached."""
    held = host.cached.get(tenant.tenant_id, {})
    paths = {tuple(chain(document, blocks)) for document, blocks in held.items()}
    cached = {path[:depth] for path in paths for depth in range(1, len(path) + 1)}
    parents = [path[:-1] for path in cached]
    published = [
        path[-1] for path in cached if parents.count(path) != 1 or len(path) % STRIDE_BLOCKS == 0
    ]
    return set(tags_of(tenant.keys.tag_key, published))


class Convergence(RuleBasedStateMachine):
    """``reached`` counts what the runs have really met."""

    reached: collections.Counter[str]

    def __init__(self) -> None:
        super().__init__()
        self.ever: dict[Origin, set[int]] = {}

    def believed(self) -> list[tuple[Host, Host, TenantEpoch]]:
        """Who has a picture of whom, empty or not."""
        return [
            (here, origin, tenant)
            for here in self.fabric.hosts
            for tenant in here.tenants().values()
            for origin in self.fabric.hosts
            if origin is not here and origin.peer_id in tenant.members
        ]

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.fabric = Fabric(ROSTERS, seed=seed)
        self.fabric.link(0, 1, 2)

    @rule(
        number=st.sampled_from(range(3)),
        which=st.sampled_from(range(2)),
        document=st.sampled_from(range(6)),
        blocks=st.sampled_from(range(20)),
    )
    def write(self, number: int, which: int, document: int, blocks: int) -> None:
        host = self.fabric.hosts[number]
        tenants = sorted(host.tenants().values(), key=lambda epoch: epoch.name)
        tenant = tenants[which % len(tenants)]
        host.cache(tenant, document, blocks)
        published = model_of(host, tenant)
        assert host.published(tenant) == published
        self.ever.setdefault((host.peer_id, tenant.tenant_id), set()).update(published)

    @rule(number=st.sampled_from(range(3)), documents=st.lists(st.sampled_from(range(6))))
    def write_much(self, number: int, documents: list[int]) -> None:
        """Many short periods, so that checkpoints are made, and some of them lost."""
        for count, document in enumerate(documents):
            self.write(number, document, document, 19 - 3 * (count % 6))
            self.fabric.run(2.0)

    @rule(seconds=st.sampled_from([0.5, 2.0, 8.0]))
    def wait(self, seconds: float) -> None:
        self.fabric.run(seconds)

    @rule(
        loss=st.sampled_from([0.0, 0.3, 0.8]),
        double=st.sampled_from([0.0, 0.5]),
        delay_s=st.sampled_from([0.0, 3.0]),
    )
    def disturb(self, loss: float, double: float, delay_s: float) -> None:
        self.fabric.loss, self.fabric.double, self.fabric.delay_s = loss, double, delay_s

    @rule(pair=st.sampled_from([(0, 1), (1, 2), (0, 2)]))
    def cut_or_mend(self, pair: tuple[int, int]) -> None:
        if frozenset(pair) in self.fabric.links:
            self.fabric.unlink(*pair)
        else:
            self.fabric.link(*pair)

    @precondition(lambda self: any(here.view(origin, t) for here, origin, t in self.believed()))
    @rule(data=st.data())
    def restart_one_that_others_know(self, data: st.DataObject) -> None:
        known = {origin.number for here, origin, t in self.believed() if here.view(origin, t)}
        number = data.draw(st.sampled_from(sorted(known)))
        self.reached["restarts of known hosts"] += 1
        self.fabric.restart(self.fabric.hosts[number])

    @precondition(lambda self: any(here.view(origin, t) for here, origin, t in self.believed()))
    @rule(data=st.data())
    def restart_one_that_knows_others(self, data: st.DataObject) -> None:
        knowing = {here.number for here, origin, t in self.believed() if here.view(origin, t)}
        number = data.draw(st.sampled_from(sorted(knowing)))
        self.reached["restarts of hosts with floors"] += 1
        self.fabric.restart(self.fabric.hosts[number])

    @invariant()
    def nobody_believes_what_was_never_published(self) -> None:
        for here, origin, tenant in self.believed():
            ever = self.ever.get((origin.peer_id, tenant.tenant_id), set())
            assert here.view(origin, tenant) <= ever

    def teardown(self) -> None:
        if not hasattr(self, "fabric"):
            return
        self.reached["pictures behind before healing"] += len(self.fabric.differences())
        self.disturb(0.0, 0.0, 0.0)
        self.fabric.link(0, 1, 2)
        self.fabric.run(HEALED_S)
        assert self.fabric.differences() == []
        for host in self.fabric.hosts:
            assert host.errors == 0
            for tenant in host.tenants().values():
                assert host.published(tenant) == model_of(host, tenant)


SETTINGS = settings(
    max_examples=30,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


def test_whatever_happens_pictures_are_never_invented_and_become_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("overlay.gossip.stream.TAIL_FRAMES_MAX", 2)
    reached: collections.Counter[str] = collections.Counter()
    replace = Replica._replace

    def counted(replica: Replica, tags: list[int]) -> Change:
        reached["checkpoints that take something away"] += bool(replica.tags - set(tags))
        return replace(replica, tags)

    monkeypatch.setattr(Replica, "_replace", counted)
    monkeypatch.setattr(Convergence, "reached", reached, raising=False)
    run_state_machine_as_test(Convergence, settings=SETTINGS)
    assert len(reached) == 4
    assert min(reached.values()) >= 5, reached
