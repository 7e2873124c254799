"""A whole run of a healthy cluster, as the observer tells of it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from chaos.history import Event, What
from chaos.invariants.catalogue import check_all
from chaos.invariants.invariant import Id, Status
from chaos.modes.node.runner import run_node
from chaos.run import Run
from chaos.scenario.plan import plan
from chaos.scenario.scenario import Cluster, Scenario, Workload

SCENARIO = Scenario(
    name="healthy",
    warm_up_s=6.0,
    duration_s=14.0,
    settle_s=12.0,
    cluster=Cluster(nodes=3, outside={"n3": ("b",)}),
    workload=Workload(requests_per_s=2.0, documents=2, document_tokens=160),
)


@cache
def healthy() -> Run:
    return run_node(plan(SCENARIO, 1))


def of(run: Run, what: What) -> list[Event]:
    return [event for event in run.events if event.what is what]


def test_everything_that_can_be_checked_without_faults_is_and_holds() -> None:
    findings = {finding.invariant: finding for finding in check_all(healthy())}
    unchecked = [id_ for id_, each in findings.items() if each.status is Status.NOT_EXERCISED]
    assert unchecked == [Id.CLEAN]
    assert [each.witnesses for each in findings.values() if each.witnesses] == []


def test_what_is_believed_was_signed_by_its_origin() -> None:
    accepted = of(healthy(), What.ACCEPTED)
    assert {event.data["object"] for event in accepted} == {"record", "head", "frame"}
    assert all(event.data["genuine"] for event in accepted)
    # What a node has of another's stream goes on one by one.
    seqs = [
        event.data["seq"]
        for event in accepted
        if event.data["object"] == "frame"
        and (event.subject, event.data["origin"], event.data["sender"]) == ("n2", "n1", "n1")
    ]
    assert seqs


def test_each_seal_is_told_once() -> None:
    pairs = [(event.data["key"], event.data["counter"]) for event in of(healthy(), What.SEALED)]
    assert pairs
    assert len(pairs) == len(set(pairs))


def test_each_request_is_served_with_no_more_than_its_tenant_has_left() -> None:
    run = healthy()
    served = of(run, What.SERVED)
    assert {event.data["request"] for event in served} == {
        event.subject for event in of(run, What.OK)
    }
    assert any(event.data["cached_tokens"] for event in served)
    assert all(e.data["cached_tokens"] <= e.data["explained_tokens"] for e in served)


def test_routes_name_the_node_that_serves_and_what_it_truly_holds() -> None:
    run = healthy()
    served = {event.data["request"]: event.subject for event in of(run, What.SERVED)}
    routed = of(run, What.ROUTED)
    assert {event.subject: event.data["node"] for event in routed} == served
    claimed = [event.data for event in routed if event.data["claims"]]
    assert claimed
    assert all(set(data["claims"]) <= set(data["held"]) for data in claimed)


def test_replicas_agree_in_the_end_and_claims_are_true() -> None:
    run = healthy()
    assert of(run, What.DIVERGED) == []
    claims = of(run, What.CLAIMS)
    # n3 is no member of b.
    assert {(event.subject, event.data["tenant"]) for event in claims} == {
        ("n1", "a"),
        ("n1", "b"),
        ("n2", "a"),
        ("n2", "b"),
        ("n3", "a"),
    }
    assert all(not event.data["phantom"] and not event.data["unpublished"] for event in claims)
    last = of(run, What.AGREEMENT)[-1].data
    # Six pairs for a, and two for b.
    assert (last["pairs"], last["agreeing"]) == (8, 8)


def test_gauges_have_caps_or_baselines_and_all_are_written_last() -> None:
    gauges = of(healthy(), What.GAUGE)
    names = {event.data["name"] for event in gauges}
    settled = max(event.at_s for event in gauges)
    last = {event.data["name"] for event in gauges if event.at_s == settled}
    assert last == names
    assert {"bookings", "index_tags", "gossip_outbox", "unsent_bytes", "peers_up"} <= names
    for event in gauges:
        if event.at_s == settled:
            assert event.data["cap"] is not None or event.data["baseline"] is not None


def test_landmarks_are_seen() -> None:
    seen = {event.subject for event in of(healthy(), What.LANDMARK)}
    assert {"answered", "digest_published", "peer_up"} <= seen


@pytest.mark.parametrize("tenants", [("a",), ("a", "b")])
def test_two_runs_of_one_schedule_are_told_alike(tenants: tuple[str, ...]) -> None:
    cluster = Cluster(nodes=2, tenants=tenants)
    schedule = plan(replace(SCENARIO, cluster=cluster, duration_s=4.0), 3)
    assert run_node(schedule).totals.trace == run_node(schedule).totals.trace
