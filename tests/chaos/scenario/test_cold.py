"""When a node's twin begins cold: as the faults that took place cut it off or took a peer."""

from __future__ import annotations

from chaos.cold import cold_times
from chaos.faults.fault import Fault, Mode
from chaos.faults.link import Latency
from chaos.faults.metadata import EventGap
from chaos.faults.process import Kill9
from chaos.faults.topology import Isolate
from chaos.history import Event, History, What
from chaos.scenario.scenario import Cluster, Expect, Limits
from chaos.scenario.schedule import PlannedFault, Schedule


def begun(*faults: tuple[str, Fault, tuple[str, ...]], missed: str = "") -> dict[str, list[float]]:
    planned = tuple(
        PlannedFault(id=name, fault=fault, at=10.0, for_s=5.0, nodes=nodes)
        for name, fault, nodes in faults
    )
    schedule = Schedule(
        name="cold",
        mode=Mode.NODE,
        seed=1,
        cluster=Cluster(nodes=3),
        limits=Limits(),
        expect=Expect(),
        warm_up_s=0.0,
        duration_s=60.0,
        settle_s=10.0,
        faults=planned,
        requests=(),
        core=(),
    )
    now_s = iter(range(20, 40))
    history = History(lambda: float(next(now_s)))
    for name, fault, nodes in faults:
        if name != missed:
            history.add(What.FAULT_BEGIN, name, kind=fault.kind, nodes=list(nodes))
    events: list[Event] = history.events
    return {node: list(times) for node, times in cold_times(schedule, events).items()}


def test_who_is_cut_off_begins_cold_and_who_lost_a_peer_too() -> None:
    assert begun(("a", Isolate(), ("n2",)), ("b", Kill9(), ("n3",))) == {
        "n2": [20.0, 21.0],
        "n1": [21.0],
    }


def test_a_fault_that_lets_messages_through_or_never_came_leaves_caches_warm() -> None:
    assert begun(("a", Latency(delay_ms=1.0), ("n1",))) == {}
    assert begun(("a", Isolate(), ("n2",)), missed="a") == {}


def test_a_cache_that_is_cleared_at_the_end_of_a_fault_is_lost_then() -> None:
    planned = PlannedFault(id="a", fault=EventGap(), at=10.0, for_s=5.0, nodes=("n2",))
    schedule = Schedule(
        name="cold",
        mode=Mode.NODE,
        seed=1,
        cluster=Cluster(nodes=2, remote=("n2",)),
        limits=Limits(),
        expect=Expect(),
        warm_up_s=0.0,
        duration_s=60.0,
        settle_s=10.0,
        faults=(planned,),
        requests=(),
        core=(),
    )
    events = [
        Event(20.0, What.FAULT_BEGIN, "a", {"nodes": ["n2"]}),
        Event(25.0, What.FAULT_END, "a", {}),
    ]
    assert cold_times(schedule, events) == {"n1": [25.0]}
