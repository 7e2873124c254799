"""Clones, restored backups and rotations in whole runs; and what is wrong with them is found."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from chaos.core_double import CoreDouble
from chaos.faults import process, security
from chaos.faults.fault import Fault
from chaos.history import Event, What
from chaos.invariants.catalogue import check_all, check_of
from chaos.invariants.invariant import Id, Status
from chaos.modes.node.actions.copies import ENDED
from chaos.modes.node.actions.tickets import VOIDED
from chaos.modes.node.runner import run_node
from chaos.plants.plant import Plant
from chaos.run import Run, marks
from chaos.scenario.plan import plan
from chaos.scenario.scenario import Cluster, FaultEntry, Scenario, Workload
from inference.core import EngineCore
from inference.request import EngineRequest, Namespace
from overlay.clones import CLONED, ClonedHost, CloneWatch, Meeting, Sightings
from security.authority import Authority
from security.epoch import TenantEpoch

SCENARIO = Scenario(
    name="copies",
    warm_up_s=6.0,
    duration_s=24.0,
    settle_s=30.0,
    cluster=Cluster(nodes=3),
    workload=Workload(requests_per_s=3.0, documents=2, document_tokens=160),
)


def run_with(
    *faults: Fault,
    target: str = "n1",
    certificate_s: float = 0.0,
    duration_s: float = 24.0,
    plant: Plant | None = None,
) -> Run:
    entries = tuple(
        FaultEntry(
            fault=fault,
            at=2.0 + 4 * place,
            for_s=None if fault.instant else duration_s - 12.0,
            target=target,
        )
        for place, fault in enumerate(faults)
    )
    cluster = replace(SCENARIO.cluster, certificate_s=certificate_s)
    made = replace(SCENARIO, faults=entries, cluster=cluster, duration_s=duration_s)
    return run_node(plan(made, 1), plant=plant)


def of(run: Run, what: What) -> list[Event]:
    return [event for event in run.events if event.what is what]


def violated(run: Run) -> set[Id]:
    return {each.invariant for each in check_all(run) if each.status is Status.VIOLATED}


@pytest.mark.parametrize("target", ["n1", "n2,n3"])
def test_of_two_clones_exactly_one_ends_and_nobody_notices(target: str) -> None:
    run = run_with(security.ClonedHost(), target=target)
    ended = [event.data["node"] for event in of(run, What.MARK) if event.subject == ENDED]
    assert sorted(name.partition("~")[0] for name in ended) == target.split(",")
    assert marks(run) >= {ENDED, "converged"}
    assert violated(run) == set()


def test_five_restarts_are_no_clones() -> None:
    run = run_with(*[process.RestartSame()] * 5)
    assert [event.subject for event in of(run, What.NODE_UP)].count("n1") == 6
    assert violated(run) == set()


def test_a_process_that_takes_a_restart_for_a_clone_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It begins with the generation that it had before, and others tell it of that process."""

    def meet(self: Sightings, boot_salt: bytes, *_: object, **__: object) -> Meeting:
        return Meeting.PAST if boot_salt == self._mine else Meeting.CLONED

    monkeypatch.setattr(Sightings, "meet", meet)
    monkeypatch.setattr("overlay.node.next_generation", lambda *_, above=0, **__: max(above + 1, 7))
    assert Id.LIVE in violated(run_with(process.RestartSame()))


def test_clones_of_which_both_end_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(self: CloneWatch) -> None:
        while not self._sightings._seen_s:
            await trio.sleep(0.1)
        await trio.sleep(3.0)
        raise ClonedHost(CLONED)

    monkeypatch.setattr(CloneWatch, "run", run)
    monkeypatch.setattr(CloneWatch, "on_met", met_once)
    assert Id.LIVE in violated(run_with(security.ClonedHost()))


def test_clones_of_which_neither_ends_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CloneWatch, "on_met", met_once)
    run = run_with(security.ClonedHost(), duration_s=50.0)
    (stuck,) = of(run, What.STUCK)
    assert "have met" in stuck.data["why"]
    assert Id.LIVE in violated(run)


def met_once(self: CloneWatch, generation: int, boot_salt: bytes) -> None:
    """As the product's, and nobody ends by it."""
    ours = self._generation()
    if self._sightings.meet(boot_salt, generation, ours=ours, now_s=0.0) is Meeting.JUMP:
        self._jump(generation)
        self._sightings.jumped(boot_salt, generation, ours=ours, now_s=0.0)


def test_a_backup_is_put_back_and_nothing_falls_or_repeats() -> None:
    run = run_with(security.RestoredCopy(), target="n2")
    (end,) = of(run, What.FAULT_END)
    assert (end.data["effects"], end.data["undone"]) == (1, True)
    held = check_of(Id.MONOTONE).check(run)
    assert held.status is Status.HELD
    assert held.exercised > 100
    assert violated(run) == set()


def test_a_restored_issuer_takes_no_ticket_twice() -> None:
    run = run_with(security.RestoredCopy(), certificate_s=600.0)
    assert VOIDED in marks(run)
    assert violated(run) == set()


def test_a_restored_issuer_that_takes_a_ticket_twice_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    catch_up = Authority.catch_up

    def keeps_tickets(self: Authority, tenant: TenantEpoch, secret: object) -> object:
        authority, again = catch_up(self, tenant, secret)  # type: ignore[arg-type]  # as it is given
        return replace(authority, tickets=self.tickets), again

    monkeypatch.setattr(Authority, "catch_up", keeps_tickets)
    run = run_with(security.RestoredCopy(), certificate_s=600.0)
    assert violated(run) == {Id.AUTHORITY}


@pytest.mark.parametrize(
    "fault", [security.TenantRotated(), security.TenantRotatedHard()], ids=repr
)
def test_a_tenant_that_is_rotated_goes_on_under_every_promise(fault: Fault) -> None:
    run = run_with(fault, fault, fault)
    assert [event.data["effects"] for event in of(run, What.FAULT_END)] == [1, 1, 1]
    assert violated(run) == set()
    assert "converged" in marks(run)


def test_a_soft_rotation_leaves_the_cache_warm_and_a_hard_one_does_not() -> None:
    def cold(run: Run) -> int:
        return sum(event.data["cached_tokens"] == 0 for event in of(run, What.SERVED))

    soft = cold(run_with(*[security.TenantRotated()] * 3))
    hard = cold(run_with(*[security.TenantRotatedHard()] * 3))
    assert hard > soft


class _OneKey(CoreDouble):
    """Blocks are named by the tenant alone, and none is let go."""

    def add(self, request: EngineRequest) -> None:
        self.inner.add(replace(request, chain_key=bytes(len(request.chain_key))))

    def drop(self, namespace: Namespace, void: bytes = b"") -> None:
        del namespace, void


class _KeepsBlocks(Plant):
    name = "blocks-kept-over-a-hard-rotation"
    invariant = Id.TENANT

    def engine(self, core: EngineCore) -> EngineCore:
        return _OneKey(core)


def test_blocks_that_outlive_a_hard_rotation_are_found() -> None:
    run = run_with(*[security.TenantRotatedHard()] * 3, plant=_KeepsBlocks())
    assert Id.TENANT in violated(run)
