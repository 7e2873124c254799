"""Every fault of this mode's own families: it has an effect, it is undone, and all ends well."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chaos.faults import client, clock, disk, link, process, topology
from chaos.faults.catalogue import FAULTS, of_family
from chaos.faults.fault import Family, Fault, Mode
from chaos.history import What
from chaos.modes.node.actions.registry import ACTIONS
from chaos.scenario.scenario import Cluster
from tests.chaos.node.runs import CALM, check_well_formed, entry, of, only, quiet_run

FAMILIES = (
    Family.LINK,
    Family.TOPOLOGY,
    Family.CLOCK,
    Family.PROCESS,
    Family.DISK,
    Family.CLIENT,
)
KINDS = [kind for family in FAMILIES for kind in of_family(family) if Mode.NODE in kind.modes]
STRONG: dict[type[Fault], Fault] = {
    link.Loss: link.Loss(fraction=0.6),
    link.Duplicate: link.Duplicate(fraction=0.6),
    link.Reorder: link.Reorder(fraction=0.6),
    link.Corrupt: link.Corrupt(fraction=0.1),
    process.MemoryCap: process.MemoryCap(cap_kbytes=1),
    client.Cancel: client.Cancel(after_ms=50),
}
WITH_SOMETHING_ELSE = {link.SlowClose, process.FdExhausted}
"""These show only when connections end and are made anew, for which something else is needed."""


def test_every_fault_of_the_mode_has_an_action() -> None:
    of_mode = [kind for kind in FAULTS if Mode.NODE in kind.modes]
    assert [kind.kind for kind in of_mode if kind not in ACTIONS] == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_it_takes_effect_and_is_undone(kind: type[Fault]) -> None:
    fault = STRONG.get(kind) or kind()
    nodes = 5 if kind is topology.RingMajorities else 3
    scenario = replace(CALM, cluster=Cluster(nodes=nodes))
    others = [entry(link.Reset(), at=4.0)] if kind in WITH_SOMETHING_ELSE else []
    run = quiet_run(entry(fault), *others, scenario=scenario)
    check_well_formed(run)
    end = only(run, What.FAULT_END, f"{fault.kind}-1")
    assert end.data["effects"] > 0
    assert end.data["undone"] is True
    assert of(run, What.FAULT_MISSED) == []
    assert of(run, What.CONVERGED), "the nodes find each other again"
    unexpected = [e for e in of(run, What.FAIL) if not e.data["expected"]]
    assert unexpected == []
    info = {e.data["why"] for e in of(run, What.INFO)}
    if not any(void.instead == "ingress_lost" for void in fault.voids):
        assert info == set()


@pytest.mark.parametrize(
    "kind",
    [process.RestartSame, process.RestartWiped, process.RestartRolledBack, disk.LostUnsynced],
    ids=lambda kind: kind.kind,
)
def test_a_restart_keeps_the_name_and_has_a_new_generation(kind: type[Fault]) -> None:
    run = quiet_run(entry(kind()))
    first, second = of(run, What.NODE_UP, subject="n2")
    assert second.data["generation"] > first.data["generation"]


def test_a_clock_that_was_set_back_does_not_bring_an_old_generation_back() -> None:
    run = quiet_run(entry(clock.Jump(jump_s=-3600), at=1.0), entry(process.RestartSame(), at=3.0))
    check_well_formed(run)
    first, second = of(run, What.NODE_UP, subject="n2")
    assert second.data["generation"] > first.data["generation"]


def test_a_peer_cannot_start_on_a_full_disk_and_starts_when_there_is_room() -> None:
    run = quiet_run(entry(disk.Full(), for_s=4.0), entry(process.RestartSame(), at=3.0))
    check_well_formed(run)
    downs = of(run, What.NODE_DOWN, subject="n2")
    assert any("cannot start" in event.data["why"] for event in downs)
    up = of(run, What.NODE_UP, subject="n2")[-1]
    assert up.data["why"] == "supervised"
    assert 11.0 <= up.at_s <= 12.1


def test_a_giant_prompt_is_refused_by_name() -> None:
    run = quiet_run(entry(client.GiantPrompt(tokens=20_000)))
    refused = only(run, What.FAIL)
    assert refused.data["code"] == "context_length_exceeded"
    assert refused.data["expected"] is True


def test_a_body_of_more_than_a_mebibyte_is_refused_by_name() -> None:
    run = quiet_run(entry(client.GiantPrompt(tokens=400_000)))
    check_well_formed(run)
    assert only(run, What.FAIL).data["code"] == "body_too_large"


def test_a_request_that_is_sent_twice_is_answered_twice() -> None:
    run = quiet_run(entry(client.DuplicateSubmit()))
    twice = [e.subject for e in of(run, What.OK) if e.subject.endswith("-duplicate_submit-1")]
    ended = {e.subject for e in of(run, What.OK)}
    assert twice
    assert {each.removesuffix("-duplicate_submit-1") for each in twice} <= ended


def test_who_hangs_up_is_noted_as_the_one_who_cancelled() -> None:
    run = quiet_run(entry(client.DisconnectMidStream(after_tokens=2)))
    cancelled = of(run, What.CANCELLED)
    assert {e.data["by"] for e in cancelled} == {"disconnect_mid_stream-1"}
    for event in cancelled:
        tokens = sum(len(e.data["ids"]) for e in of(run, What.TOKENS, subject=event.subject))
        assert tokens == 2


def test_a_fault_keeps_its_hold_on_a_node_that_restarts_meanwhile() -> None:
    run = quiet_run(
        entry(topology.Isolate(), for_s=None),
        entry(process.RestartSame(), at=4.0),
    )
    check_well_formed(run)
    served = {
        (e.data["node"], ingress)
        for e in of(run, What.OK)
        for invoked in of(run, What.INVOKE, subject=e.subject)
        if (ingress := invoked.data["ingress"]) and invoked.at_s > 9.0 and e.at_s < 17.0
    }
    assert served
    assert all((node == "n2") == (ingress == "n2") for node, ingress in served)


@pytest.mark.parametrize(
    "other",
    [process.Crash(), process.Kill9(), process.RestartSame(), process.RestartNewIdentity()],
    ids=lambda other: other.kind,
)
def test_a_stopped_process_can_be_ended_and_its_successor_runs(other: Fault) -> None:
    run = quiet_run(entry(process.StopCont(), at=1.0, for_s=9.0), entry(other, at=3.0, for_s=2.0))
    check_well_formed(run)
    assert of(run, What.FAULT_MISSED) == []
    last = of(run, What.NODE_UP, subject="n2")[-1]
    later = {
        e.subject
        for e in of(run, What.INVOKE)
        if e.data["ingress"] == "n2" and 10.5 < e.at_s < 14.0
    }
    assert last.at_s <= 10.5
    assert later
    assert later <= {e.subject for e in of(run, What.OK) if e.at_s < 15.0}, "before it goes on"
