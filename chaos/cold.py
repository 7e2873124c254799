"""When a node lost what others cached for it: its twin without an overlay begins cold then.

An overlay keeps a prefix where it serves most, and not on every host as well. A host that is cut
off from there, or whose peer ends, computes it anew; one that had always been alone would have had
it. That is the price of sharing, and no delay that NO-WORSE is about.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from chaos.cuts import CUTTING
from chaos.faults import link, metadata, process, topology, worker
from chaos.history import Event, What
from chaos.scenario.schedule import Schedule

APART = (
    *CUTTING,
    topology.OneWay,
    topology.Flap,
    topology.Swizzle,
    link.Jam,
    link.Blackhole,
)
"""Faults whose nodes cannot reach each other."""

GONE = (
    process.Crash,
    process.Kill9,
    process.StopCont,
    process.RestartSame,
    process.RestartWiped,
    process.RestartRolledBack,
    process.RestartNewIdentity,
    worker.EngineCrash,
    worker.EvictionStorm,
    worker.OomAtStep,
    worker.WrongModel,
    worker.ServerRestart,
)
"""Faults whose nodes lose their caches, or stop serving from them."""

AT_END = (metadata.EventGap,)
"""Faults whose nodes lose their caches when they end."""


def cold_times(schedule: Schedule, events: Iterable[Event]) -> Mapping[str, Sequence[float]]:
    """For each node the times, in order, at which its twin begins with an empty cache."""
    planned = {each.id: each for each in schedule.faults}
    names = schedule.cluster.names
    found: dict[str, list[float]] = {}
    for event in events:
        fault = planned.get(event.subject)
        if fault is None:
            continue
        when = What.FAULT_END if isinstance(fault.fault, AT_END) else What.FAULT_BEGIN
        if event.what is not when:
            continue
        if isinstance(fault.fault, APART):
            hurt = set(fault.nodes)
        elif isinstance(fault.fault, GONE + AT_END):
            hurt = set(names) - set(fault.nodes)
        else:
            continue
        for name in sorted(hurt):
            found.setdefault(name, []).append(event.at_s)
    return found
