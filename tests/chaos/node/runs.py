"""Short runs of the node mode for tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from chaos.faults.fault import Aim, Fault
from chaos.history import Event, What
from chaos.modes.node import runner
from chaos.run import Run
from chaos.scenario.plan import plan
from chaos.scenario.scenario import Cluster, FaultEntry, Landmark, Scenario, Workload
from chaos.scenario.schedule import Schedule
from tests.chaos.node.quiet import Quiet

CALM = Scenario(
    name="test",
    cluster=Cluster(nodes=3),
    workload=Workload(requests_per_s=4.0, documents=3),
    warm_up_s=5.0,
    duration_s=12.0,
    settle_s=10.0,
)


def entry(
    fault: Fault,
    target: str | None = None,
    *,
    at: float | Landmark = 2.0,
    for_s: float | None = 6.0,
    links: tuple[str, ...] = (),
    groups: tuple[tuple[str, ...], ...] = (),
) -> FaultEntry:
    """A fault of a scenario, aimed at n2 unless something else is said."""
    if target is None and not links and not groups:
        target = {Aim.LINKS: "all", Aim.GROUPS: "minority"}.get(fault.aim, "n2")
    if fault.instant:
        for_s = None
    return FaultEntry(fault=fault, at=at, for_s=for_s, target=target, links=links, groups=groups)


def schedule(*faults: FaultEntry, scenario: Scenario = CALM, seed: int = 1) -> Schedule:
    return plan(replace(scenario, faults=faults), seed)


def quiet_run(*faults: FaultEntry, scenario: Scenario = CALM, seed: int = 1) -> Run:
    """A run without the observer: these tests are of the runner and its actions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "make_observer", Quiet)
        return runner.run_node(schedule(*faults, scenario=scenario, seed=seed))


def of(run: Run, *kinds: What, subject: str | None = None) -> list[Event]:
    return [
        event
        for event in run.events
        if event.what in kinds and (subject is None or event.subject == subject)
    ]


def only(run: Run, kind: What, subject: str | None = None) -> Event:
    (event,) = of(run, kind, subject=subject)
    return event


def answers(run: Run) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The token ids of every request that was answered."""
    tokens: dict[str, list[int]] = {}
    for event in of(run, What.TOKENS):
        tokens.setdefault(event.subject, []).extend(event.data["ids"])
    for event in of(run, What.OK):
        yield event.subject, tuple(tokens.get(event.subject, ()))


def check_well_formed(run: Run) -> None:
    """What holds of every run: each request ends once, and the whole run came to its end."""
    names = [event.data["name"] for event in of(run, What.PHASE)]
    assert names == ["warm_up", "storm", "healed", "settled", "stopped"]
    invoked = [event.subject for event in of(run, What.INVOKE)]
    ended = [e.subject for e in of(run, What.OK, What.FAIL, What.CANCELLED, What.INFO)]
    assert sorted(invoked) == sorted(ended)
    assert len(set(invoked)) == len(invoked)
    assert of(run, What.STUCK) == []
    assert run.notes == ()
    times = [event.at_s for event in run.events]
    assert times == sorted(times)
    for request, ids in answers(run):
        assert ids == run.twin.tokens[request]
