"""When a node lost what others cached for it: its twin without an overlay begins cold then.

An overlay keeps a prefix where it serves most, and not on every host as well. A host that is cut
off from there, or whose peer ends, computes it anew; one that had always been alone would have had
it. That is the price of sharing, and no delay that NO-WORSE is about.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from chaos.cuts import CUTTING
from chaos.faults import link, metadata, process, security, topology, worker
from chaos.history import Event, What
from chaos.scenario.schedule import PlannedFault, Schedule

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
    security.ClonedHost,
    worker.EngineCrash,
    worker.EvictionStorm,
    worker.OomAtStep,
    worker.WrongModel,
    worker.ServerRestart,
)
"""Faults whose nodes lose their caches, or stop serving from them."""

AT_END = (metadata.EventGap, security.RestoredCopy, security.ClonedHost)
"""Faults whose nodes lose their caches when they end."""

VOID = (security.TenantRotatedHard,)
"""Faults after which nobody uses what it has cached."""


def cold_times(schedule: Schedule, events: Iterable[Event]) -> Mapping[str, Sequence[float]]:
    """For each node the times, in order, at which its twin begins with an empty cache."""
    planned = {each.id: each for each in schedule.faults}
    names = schedule.cluster.names
    found: dict[str, list[float]] = {}
    for event in events:
        fault = planned.get(event.subject)
        if fault is None:
            continue
        for name in sorted(_hurt(fault, event.what, names)):
            found.setdefault(name, []).append(event.at_s)
    return found


def _hurt(planned: PlannedFault, what: What, names: Sequence[str]) -> set[str]:
    """Whose twins begin cold when a fault begins or ends."""
    at_begin, at_end = what is What.FAULT_BEGIN, what is What.FAULT_END
    fault = planned.fault
    if isinstance(fault, VOID) and at_begin:
        return set(names)
    if isinstance(fault, APART) and at_begin:
        return set(planned.nodes)
    if (isinstance(fault, GONE) and at_begin) or (isinstance(fault, AT_END) and at_end):
        return set(names) - set(planned.nodes)
    return set()
