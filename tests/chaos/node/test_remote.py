"""Remote servers in simulated clusters: whole bodies, chunks, and what is done to the servers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from chaos.errors import ScenarioError
from chaos.faults import metadata, process, topology, worker
from chaos.faults.catalogue import FAULTS
from chaos.faults.fault import Fault, Mode
from chaos.history import Event, What
from chaos.invariants.catalogue import check_all
from chaos.invariants.invariant import Finding, Id, Status
from chaos.invariants.lives import lives
from chaos.modes.node.runner import run_node
from chaos.run import Run, marks
from chaos.scenario import swarm, systematic
from chaos.scenario.load import find, load, parse
from chaos.scenario.plan import plan
from chaos.scenario.scenario import Cluster, FaultEntry, Scenario, Systematic, Workload
from chaos.scenario.smaller import without_node

CLUSTER = Cluster(nodes=3, remote=("n2",))
SCENARIO = Scenario(
    name="remote",
    warm_up_s=6.0,
    duration_s=14.0,
    settle_s=20.0,
    cluster=CLUSTER,
    workload=Workload(
        requests_per_s=4.0, documents=2, document_tokens=160, max_tokens=16, tools_share=0.4
    ),
)


@cache
def run_with(
    *faults: Fault, servers: tuple[str, ...] = ("n2",), target: str = "n2", **how: bool
) -> Run:
    """One run; the first fault comes at 4 s, the next ones 1.5 s later each."""
    entries = tuple(
        FaultEntry(
            fault=fault,
            at=4.0 + 1.5 * number,
            for_s=None if fault.instant else 7.0,
            target=target,
        )
        for number, fault in enumerate(faults)
    )
    cluster = replace(CLUSTER, remote=servers, **how)  # type: ignore[arg-type]  # its flags
    return run_node(plan(replace(SCENARIO, cluster=cluster, faults=entries), 1))


def of(run: Run, *kinds: What) -> list[Event]:
    return [event for event in run.events if event.what in kinds]


def finding(run: Run, invariant: Id) -> Finding:
    return next(each for each in check_all(run) if each.invariant is invariant)


def broken(run: Run) -> list[Finding]:
    return [each for each in check_all(run) if each.status is Status.VIOLATED]


KINDS_OF_SERVER = [
    {},
    {"remote_tells_ids": False},
    {"remote_salts": False},
    {"remote_exact": False, "remote_salts": False, "remote_tells_ids": False},
]


@pytest.mark.parametrize("how", KINDS_OF_SERVER, ids=str)
def test_all_is_answered_and_every_promise_is_kept(how: dict[str, bool]) -> None:
    run = run_with(**how)
    assert broken(run) == []
    asked = {event.subject: event.data for event in of(run, What.INVOKE)}
    tools = {name for name, data in asked.items() if data.get("tools")}
    whole = {name for name, data in asked.items() if data.get("whole")}
    assert tools > whole > set()
    assert len(asked) > len(tools)
    ended = {event.subject: event.data for event in of(run, What.OK)}
    served = {ended[name]["node"] for name in tools if name in ended}
    assert served == {"n2"}
    if run.schedule.cluster.remote_salts:
        assert set(ended) == set(asked)
    assert {ended[name]["reason"] for name in tools if name in ended} == {"tool_calls"}
    pieces = {name: len(lives(run)[name].tokens) for name in tools if name in ended}
    assert {pieces[name] for name in whole if name in pieces} == {1}
    assert max(pieces.values()) > 1


def test_an_engine_that_keeps_no_tenants_apart_serves_one() -> None:
    run = run_with(remote_salts=False)
    assert {e.data["tenant"] for e in of(run, What.SERVED) if e.subject == "n2"} == {"a"}


def test_nothing_of_it_is_in_a_cluster_without() -> None:
    run = run_with(servers=())
    assert of(run, What.SAID) == []
    assert {frozenset(e.data) for e in of(run, What.TOKENS)} == {frozenset({"ids"})}
    assert not any("tools" in e.data or "whole" in e.data for e in of(run, What.INVOKE))


def _dropped(events: list[Event]) -> list[Event]:
    return events[:1] + events[2:]


def _doubled(events: list[Event]) -> list[Event]:
    return [events[0], events[1], *events[1:]]


def _swapped(events: list[Event]) -> list[Event]:
    return [events[1], events[0], *events[2:]]


@pytest.mark.parametrize("spoil", [_dropped, _doubled, _swapped])
@pytest.mark.parametrize("tools", [True, False])
def test_a_chunk_that_is_lost_doubled_or_out_of_order_is_seen(
    spoil: Callable[[list[Event]], list[Event]], *, tools: bool
) -> None:
    run = run_with(remote_tells_ids=False)
    name, life = next(
        (name, life)
        for name, life in lives(run).items()
        if life.blind
        and len(life.tokens) > 3
        and bool(life.invokes[0].event.data.get("tools")) is tools
    )
    old = [fact.event for fact in life.tokens]
    new, first = spoil(old), life.tokens[0].index
    rest = [e for e in run.events[first:] if e not in old]
    spoiled = replace(run, events=(*run.events[:first], *new, *rest))
    assert [each.request for each in finding(spoiled, Id.ACCOUNT).witnesses] == [name]
    assert finding(spoiled, Id.OUTPUT).status is Status.HELD


def test_a_chunk_that_says_something_else_is_seen() -> None:
    run = run_with(remote_tells_ids=False)
    life = next(life for life in lives(run).values() if life.blind and life.completed)
    said = life.said[-1].index
    tokens, piece = life.tokens[0].index, "00"

    def other(number: int, event: Event) -> Event:
        data: dict[str, Any] = dict(event.data)
        if number == tokens:
            data |= {"text": data["text"] + "!", "piece": piece}
        elif number == said:
            data["pieces"] = [piece, *data["pieces"][1:]]
        return Event(event.at_s, event.what, event.subject, data)

    events = tuple(other(number, event) for number, event in enumerate(run.events))
    spoiled = replace(run, events=events)
    assert [w.request for w in finding(spoiled, Id.OUTPUT).witnesses] == [life.request]
    assert finding(spoiled, Id.ACCOUNT).status is Status.HELD


def test_a_body_that_some_server_reads_must_be_answered() -> None:
    run = run_with()
    whole = finding(run, Id.AVAILABLE)
    name = next(
        name
        for name, life in lives(run).items()
        if life.ingress == "n1" and life.invokes[0].event.data.get("tools")
    )
    failed = tuple(
        Event(e.at_s, What.FAIL, name, {"code": "no_capable_peer", "expected": False})
        if e.subject == name and e.what is What.OK
        else e
        for e in run.events
    )
    spoiled = replace(run, events=failed)
    assert [w.request for w in finding(spoiled, Id.AVAILABLE).witnesses] == [name]
    assert whole.exercised == len(of(run, What.OK))
    # Where something ails the server, nobody promises it.
    hurt = run_with(worker.SlowGpu())
    assert 0 < finding(hurt, Id.AVAILABLE).exercised < len(of(hurt, What.OK))


def test_a_body_whose_server_is_cut_off_by_a_fault_at_another_node_may_fail() -> None:
    run = run_with(topology.Bridge(), target="n3")
    assert any(e.data.get("code") == "no_capable_peer" for e in of(run, What.FAIL))
    assert finding(run, Id.AVAILABLE).status is Status.HELD


def test_a_server_that_restarts_answers_nothing_and_comes_back_with_an_empty_cache() -> None:
    run = run_with(worker.ServerRestart())
    assert broken(run) == []
    assert "server_gone" in marks(run)
    (begin,), (end,) = of(run, What.FAULT_BEGIN), of(run, What.FAULT_END)
    assert end.data["effects"] == 1
    served = [e for e in of(run, What.SERVED) if e.subject == "n2"]
    assert not [e for e in served if begin.at_s < e.at_s < end.at_s]
    back = [e.data["cached_tokens"] for e in served if e.at_s > end.at_s]
    assert 0 in back[:2], "the first one may be answered whole, and be told of after the second"
    assert any(back)
    failed = {e.data["code"] for e in of(run, What.FAIL)}
    assert failed <= {"unsupported_parameter", "no_capable_peer", "stream_broken"}


def test_an_answer_that_no_other_can_go_on_with_may_break_off() -> None:
    run = run_with(process.Kill9(), servers=("n2", "n3"), remote_tells_ids=False)
    assert broken(run) == []


@pytest.mark.parametrize("gap_s", [2, 7])
def test_events_that_are_lost_cost_a_hop_at_most(gap_s: float) -> None:
    run = run_with(metadata.EventGap(gap_s=gap_s), worker.EvictionStorm(every_ms=400))
    assert broken(run) == []
    assert "events_lost" in marks(run)
    assert any(e.data["false_s"] for e in of(run, What.ROUTED)), "stale claims were believed"
    assert "converged" in marks(run)


def test_a_remote_liar_is_no_worse_than_another() -> None:
    run = run_with(worker.LieCached())
    assert broken(run) == []
    told = {event.subject: event.data["cached_tokens"] for event in of(run, What.OK)}
    served = {event.data["request"]: event for event in of(run, What.SERVED)}
    lies = [name for name in told if told[name] > served[name].data["cached_tokens"]]
    assert any(lives(run)[name].invokes[0].event.data.get("tools") for name in lies)


@pytest.mark.parametrize(
    "fault",
    [
        worker.OomAtStep(steps=20),
        worker.EngineCrash(),
        worker.StreamCut(after_tokens=2),
        worker.WrongModel(),
        worker.KvCorrupt(),
        worker.EarlyEos(),
        worker.SlowGpu(),
    ],
    ids=lambda fault: fault.kind,
)
def test_faults_of_engines_are_done_to_servers_too(fault: Fault) -> None:
    run = run_with(fault)
    assert broken(run) == []
    (end,) = of(run, What.FAULT_END)
    assert end.data["effects"] > 0


def test_a_fault_of_a_server_where_there_is_none_is_missed() -> None:
    run = run_with(worker.ServerRestart(), target="n1")
    assert [e.data["why"] for e in of(run, What.FAULT_MISSED)] == [
        "none of its nodes has a remote server"
    ]


# -- planning


def test_servers_are_of_node_mode_and_of_nodes_that_there_are() -> None:
    for text, said in (
        ('mode = "core"\n[cluster]\nremote = ["n2"]', "simulated"),
        ('[cluster]\nremote = ["n9"]', "n9"),
    ):
        with pytest.raises(ScenarioError, match=said):
            parse(f'schema = 1\nname = "x"\n{text}\n')
    with pytest.raises(ScenarioError, match="node mode only"):
        plan(SCENARIO, mode=Mode.CORE)


def test_tools_are_asked_for_only_where_somebody_can() -> None:
    plain = plan(replace(SCENARIO, cluster=Cluster(nodes=3)), 1).requests
    remote = plan(SCENARIO, 1).requests
    assert not any(request.tools or request.stream for request in plain)
    # The rest of each is the same.
    assert [replace(request, tools=False, stream=False) for request in remote] == list(plain)


def test_a_swarm_has_servers_in_some_clusters_of_node_mode() -> None:
    scenario = load(find("swarm"))
    drawn = [plan(scenario, seed).cluster.remote for seed in range(40)]
    assert 5 < sum(map(bool, drawn)) < 20
    core = [plan(scenario, seed, mode=Mode.CORE).cluster for seed in range(40)]
    assert not any(cluster.remote for cluster in core)
    assert [replace(plan(scenario, s).cluster, **BARE) for s in range(40)] == core


BARE: dict[str, Any] = {
    "remote": (),
    "remote_salts": True,
    "remote_tells_ids": True,
    "remote_exact": True,
}


def test_faults_of_servers_are_drawn_where_there_are_servers() -> None:
    scenario = replace(load(find("swarm")), duration_s=20.0)
    kinds = {kind.kind for kind in FAULTS if kind.needs_remote}
    seen: set[str] = set()
    for seed in range(60):
        schedule = plan(scenario, seed)
        for planned in schedule.faults:
            if planned.fault.needs_remote:
                assert set(planned.nodes) <= set(schedule.cluster.remote)
                seen.add(planned.fault.kind)
    assert seen == kinds
    assert swarm.REMOTE_FRACTION < 0.5


def test_they_are_enumerated_at_servers_alone() -> None:
    grid = Systematic(depth=1, kinds=("server_restart", "event_gap"))
    scenario = replace(SCENARIO, systematic=grid)
    places = {
        systematic.faults_at(scenario, index)[0].nodes
        for index in range(systematic.count(scenario))
    }
    assert places == {("n2",)}
    assert systematic.count(replace(scenario, cluster=Cluster(nodes=3))) == 0


def test_a_server_moves_up_with_its_node() -> None:
    schedule = plan(replace(SCENARIO, cluster=replace(CLUSTER, remote=("n2", "n3"))), 1)
    assert without_node(schedule, "n2").cluster.remote == ("n2",)
