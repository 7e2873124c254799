"""Every metadata, security and worker fault on a small cluster: it takes effect, and is undone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

import pytest

from chaos.faults import metadata, process, security, worker
from chaos.faults.fault import Fault
from chaos.history import Event, What
from chaos.invariants.catalogue import check_all
from chaos.invariants.invariant import Finding, Id, Status
from chaos.invariants.voids import TAIL_S
from chaos.modes.node.actions.registry import ACTIONS
from chaos.modes.node.actions.roster import REMOVED
from chaos.modes.node.runner import run_node
from chaos.plants.catalogue import PLANTS
from chaos.run import Run, marks
from chaos.scenario.plan import plan
from chaos.scenario.scenario import Cluster, FaultEntry, Scenario, Workload
from overlay.ingress import PeerIngress
from overlay.principals import Principals
from overlay.request import Principal
from overlay.revocation.exchange import Exchange
from overlay.revocation.messages import Compare, Part
from security.epoch import TenantEpoch
from security.revocation import Revocation, RevocationSet
from security.signed import Verified
from security.tenant import TenantId

SCENARIO = Scenario(
    name="one fault",
    warm_up_s=6.0,
    duration_s=14.0,
    settle_s=20.0,
    cluster=Cluster(nodes=3, outside={"n3": ("b",)}),
    workload=Workload(requests_per_s=3.0, documents=2, document_tokens=160),
)

FAULTS: tuple[Fault, ...] = (
    worker.SlowGpu(factor=1.5),
    worker.EngineCrash(),
    worker.EvictionStorm(),
    worker.StreamCut(after_tokens=2),
    worker.LieCached(),
    worker.OomAtStep(),
    worker.WrongModel(),
    worker.WrongModel(tokenizer=1),
    worker.KvCorrupt(),
    worker.EarlyEos(),
    metadata.StaleDigest(),
    metadata.Replay(),
    metadata.SequenceRollback(back=2),
    metadata.OverClaim(),
    metadata.UnderClaim(),
    metadata.ChurnStorm(),
    security.ForgedSignature(),
    security.GarbageBytes(),
    security.Slowloris(connections=4, gap_ms=200),
    security.Flood(connections_per_s=20),
    security.CrossTenantProbe(every_ms=300),
    security.MemberRemoved(),
    security.RootRotated(),
    security.RevokedTwice(),
    security.TokenRevoked(),
    security.ClonedHost(),
    security.RestoredCopy(),
    security.TenantRotated(),
    security.TenantRotatedHard(),
)
"""Those that no promise breaks under."""


@cache
def run_with(fault: Fault, *, for_s: float = 7.0, target: str = "n1") -> Run:
    entry = FaultEntry(fault=fault, at=2.0, for_s=for_s, target=target)
    return run_node(plan(replace(SCENARIO, faults=(entry,)), 1))


def of(run: Run, what: What) -> list[Event]:
    return [event for event in run.events if event.what is what]


def finding(run: Run, invariant: Id) -> Finding:
    return next(each for each in check_all(run) if each.invariant is invariant)


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
def test_it_takes_effect_and_is_undone_and_every_promise_is_kept(fault: Fault) -> None:
    run = run_with(fault)
    (end,) = of(run, What.FAULT_END)
    assert end.data["undone"]
    assert end.data["effects"] > 0
    assert run.notes == ()
    assert of(run, What.DIVERGED) == []
    assert not any(event.data["phantom"] for event in of(run, What.CLAIMS))
    broken = [each for each in check_all(run) if each.status is Status.VIOLATED]
    assert broken == []


def test_every_fault_of_the_three_families_has_an_action() -> None:
    for module in (metadata, security, worker):
        for each in vars(module).values():
            if isinstance(each, type) and issubclass(each, Fault) and hasattr(each, "kind"):
                assert each in ACTIONS, each.kind


def test_a_stalled_engine_ends_nothing_before_the_fault_does() -> None:
    run = run_with(worker.Stall())
    assert {"worker_slow", "engine_failed"} <= marks(run)
    served = [event.at_s for event in of(run, What.SERVED) if event.subject == "n1"]
    # The step that was under way when it began still ends.
    assert not [at_s for at_s in served if 8.2 < at_s < 15.0]
    assert [at_s for at_s in served if at_s >= 15.0]
    assert finding(run, Id.OUTPUT).status is Status.HELD
    assert finding(run, Id.ACCOUNT).status is Status.HELD
    # Nobody waits for it who can be served elsewhere.
    assert finding(run, Id.NO_WORSE).status is not Status.VIOLATED


def test_a_lie_is_told_to_clients_and_what_was_taken_is_told_of_it() -> None:
    run = run_with(worker.LieCached())
    assert "lie_seen" in marks(run)
    told = {event.subject: event.data["cached_tokens"] for event in of(run, What.OK)}
    served = {event.data["request"]: event for event in of(run, What.SERVED)}
    lies = [served[each] for each in told if told[each] > served[each].data["cached_tokens"]]
    assert {event.subject for event in lies} == {"n1"}
    assert {event.data["cached_tokens"] for event in lies} == {0}


def test_a_lie_told_after_a_stall_is_no_leak() -> None:
    """At a host that is alone they wait for the engine, and are served long after the lie's end."""
    entries = (
        FaultEntry(fault=worker.LieCached(), at=2.0, for_s=3.0, target="n1"),
        FaultEntry(fault=worker.Stall(), at=2.0, for_s=17.0, target="n1"),
    )
    alone = replace(SCENARIO, cluster=Cluster(nodes=1), duration_s=20.0, faults=entries)
    run = run_node(plan(alone, 1))
    (seen,) = [e for e in of(run, What.MARK) if e.subject == "lie_seen"]
    (over,) = [e for e in of(run, What.FAULT_END) if e.data["kind"] == "lie_cached"]
    assert seen.at_s > over.at_s + TAIL_S
    assert (finding(run, Id.TENANT).status, finding(run, Id.TENANT).voided) == (Status.HELD, 0)


def test_a_lie_hides_no_hit_by_another_tenant_s_blocks() -> None:
    entry = FaultEntry(fault=worker.LieCached(), at=0.0, for_s=14.0, target="all")
    plant = PLANTS["cache-without-tenant"]
    run = run_node(plan(replace(SCENARIO, faults=(entry,)), 1), plant=plant)
    assert finding(run, Id.TENANT).status is Status.VIOLATED


def test_claims_differ_while_a_false_claim_lasts_and_no_more_after_it() -> None:
    run = run_with(metadata.OverClaim())
    false = [event for event in of(run, What.ROUTED) if event.data["false_s"]]
    assert false
    # Two periods of gossip after its end at 15 s, nobody believes it any more.
    assert max(event.at_s for event in false) < 20.0


def test_who_is_revoked_is_turned_away_for_good() -> None:
    run = run_with(security.RevokedKeepsTalking())
    (revoked,) = of(run, What.REVOKED)
    assert revoked.subject == "n1"
    assert "revocation_enforced" in marks(run)
    late = [e for e in of(run, What.ROUTED) if e.at_s > revoked.at_s + 2 and e.data["node"] == "n1"]
    # Its own clients are served by itself, and nobody else's are.
    ingresses = {event.subject: event.data["ingress"] for event in of(run, What.INVOKE)}
    assert {ingresses[event.subject] for event in late} <= {"n1"}
    assert of(run, What.CHANGED) == []
    # Its news is passed on by somebody admitted all the time, and nobody believes it.
    assert finding(run, Id.AUTHORITY).witnesses == ()


def test_who_is_revoked_in_a_partition_is_turned_away_by_all_after_it() -> None:
    run = run_with(security.RevokedInPartition())
    told = of(run, What.REVOKED)
    assert {event.subject for event in told} == {"n1"}
    assert [event.data["at"] for event in told] == ["n2", "n3"]
    assert told[0].at_s + 5 < told[1].at_s, "n3 was cut off with n1"
    assert "revocation_enforced" in marks(run)
    held = finding(run, Id.AUTHORITY)
    assert (held.status, held.witnesses) == (Status.HELD, ())
    late = [e for e in of(run, What.ROUTED) if e.at_s > told[1].at_s and e.data["node"] == "n1"]
    ingresses = {event.subject: event.data["ingress"] for event in of(run, What.INVOKE)}
    assert {ingresses[event.subject] for event in late} <= {"n1"}


def test_who_is_revoked_twice_is_revoked_in_both_ways_everywhere() -> None:
    run = run_with(security.RevokedTwice())
    told = [(event.data["by"], event.data["at"]) for event in of(run, What.REVOKED)]
    assert sorted(told) == [("n2", "n2"), ("n2", "n3"), ("n3", "n2"), ("n3", "n3")]
    assert finding(run, Id.AUTHORITY).status is Status.HELD


def test_a_set_that_keeps_one_statement_of_each_id_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepare = Exchange.prepare

    def one_each(self: Exchange, fresh: Sequence[Verified[Revocation]]) -> object:
        return prepare(self, [each for each in fresh if not self.known.revokes(each.value.id)])

    monkeypatch.setattr(Exchange, "prepare", one_each)
    found = finding(run_with.__wrapped__(security.RevokedTwice()), Id.AUTHORITY)
    assert found.status is Status.VIOLATED
    assert {witness.node for witness in found.witnesses} == {"n2", "n3"}


def test_a_token_that_is_revoked_brings_nothing_more() -> None:
    run = run_with(security.TokenRevoked(every_ms=200))
    assert "token_refused" in marks(run)
    assert finding(run, Id.AUTHORITY).status is Status.HELD


def test_a_token_that_is_taken_although_it_is_revoked_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of_token = Principals.of_token

    def blind(self: Principals, credential: str) -> Principal:
        self._revocations = RevocationSet
        return of_token(self, credential)

    monkeypatch.setattr(Principals, "of_token", blind)
    found = finding(run_with.__wrapped__(security.TokenRevoked(every_ms=200)), Id.AUTHORITY)
    assert found.status is Status.VIOLATED
    assert any("took a request" in witness.found for witness in found.witnesses)


def test_a_peer_that_tells_nobody_what_is_revoked_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(exchange: Exchange, since: int, peer_id: str) -> tuple[None, int]:
        return None, exchange.end

    def hiding(exchange: Exchange, question: Compare) -> Iterator[Part]:
        yield Part(digest=question.digest, issuers=[], statements=[], more=False)

    monkeypatch.setattr(Exchange, "news", silent)
    monkeypatch.setattr(Exchange, "answer", hiding)
    run = run_with.__wrapped__(security.RevokedInPartition())
    found = finding(run, Id.AUTHORITY)
    assert found.status is Status.VIOLATED
    assert {witness.node for witness in found.witnesses} == {"n3"}


def test_who_is_revoked_and_installed_anew_is_revoked_again() -> None:
    entries = (
        FaultEntry(fault=security.RevokedKeepsTalking(), at=2.0, target="n1"),
        FaultEntry(fault=process.RestartNewIdentity(), at=5.3, target="n1"),
        FaultEntry(fault=process.RestartSame(), at=7.3, target="n2"),
    )
    run = run_node(plan(replace(SCENARIO, faults=entries), 1))
    assert finding(run, Id.AUTHORITY).witnesses == ()
    assert of(run, What.CHANGED) == []
    late = [e for e in of(run, What.ROUTED) if e.at_s > 15.0 and e.data["node"] == "n1"]
    ingresses = {event.subject: event.data["ingress"] for event in of(run, What.INVOKE)}
    assert {ingresses[event.subject] for event in late} <= {"n1"}


def test_a_tenants_prompts_do_not_help_another_that_sends_the_same() -> None:
    run = run_with(security.CrossTenantProbe(every_ms=300), target="n3")
    probes = [event for event in of(run, What.INVOKE) if event.subject.startswith("cross")]
    assert {event.data["tenant"] for event in probes} == {"a", "b"}
    refused = {event.subject for event in of(run, What.FAIL)}
    # n3 is no member of b, and says so.
    assert {e.subject for e in probes if e.data["tenant"] == "b"} == refused
    assert of(run, What.LEAK) == []


def test_a_router_that_goes_on_by_an_old_roster_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its requests go on being sent to the host that has left."""
    known: dict[tuple[int, str], TenantEpoch] = {}
    of_now = PeerIngress._tenant

    def stale(self: PeerIngress, tenant_id: TenantId) -> TenantEpoch:
        now = of_now(self, tenant_id)
        return known.setdefault((id(self), tenant_id), now)

    monkeypatch.setattr(PeerIngress, "_tenant", stale)
    entry = FaultEntry(fault=security.MemberRemoved(), at=4.0, for_s=9.0, target="n1")
    run = run_node(plan(replace(SCENARIO, faults=(entry,)), 1))
    found = finding(run, Id.TENANT)
    assert found.status is Status.VIOLATED
    assert any("on the roster no longer" in str(event.data) for event in of(run, What.LEAK))


def test_who_is_removed_learns_so_and_is_a_member_again() -> None:
    run = run_with(security.MemberRemoved())
    assert [event.subject for event in of(run, What.MARK)].count(REMOVED) == 1
    assert of(run, What.CONVERGED)
    assert finding(run, Id.TENANT).status is Status.HELD
