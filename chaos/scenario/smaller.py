"""Smaller schedules near a schedule: what the shrinker tries. Each is whole and can be run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

from chaos.faults.catalogue import fault_of
from chaos.scenario.scenario import Cluster, Expect, Landmark
from chaos.scenario.schedule import PlannedFault, PlannedRequest, Schedule

DURATION_MIN_S = 0.5
SETTLE_MIN_S = 1.0
EACH_REQUEST_MAX = 6
"""With more requests than that, their values change for all of them at once only."""

_PLAIN_TOKENS = {"document_tokens": (16, 64, 256), "question_tokens": (1, 8), "max_tokens": (1, 4)}


def ending_at(schedule: Schedule, duration_s: float) -> Schedule:
    """The storm cut short; what would begin after its end goes. Landmarks stay."""
    return replace(
        schedule,
        duration_s=duration_s,
        requests=tuple(r for r in schedule.requests if r.at_s < duration_s),
        faults=tuple(f for f in schedule.faults if isinstance(f.at, Landmark) or f.at < duration_s),
    )


def without_node(schedule: Schedule, gone: str) -> Schedule:
    """One node less; those after it move up by one.

    Requests at it enter at another member of their tenant, and what was done to it alone goes.
    """
    old = schedule.cluster.names
    kept = [name for name in old if name != gone]
    new = {name: f"n{number}" for number, name in enumerate(kept, start=1)}
    cluster = schedule.cluster
    outside = {new[n]: t for n, t in cluster.outside.items() if n in new}
    member = {
        tenant: next((n for n in new.values() if tenant not in outside.get(n, ())), None)
        for tenant in cluster.tenants
    }
    requests = []
    for request in schedule.requests:
        ingress = new.get(request.ingress) or member[request.tenant]
        if ingress is not None:
            requests.append(replace(request, ingress=ingress))
    faults = [_renamed(fault, new) for fault in schedule.faults]
    return replace(
        schedule,
        cluster=replace(
            cluster,
            nodes=len(kept),
            outside=outside,
            slow={new[n]: factor for n, factor in cluster.slow.items() if n in new},
            late={new[n]: at_s for n, at_s in cluster.late.items() if n in new},
            remote=tuple(new[n] for n in cluster.remote if n in new),
        ),
        core=tuple(new[name] for name in schedule.core if name in new),
        requests=tuple(requests),
        faults=tuple(fault for fault in faults if fault is not None),
    )


def _renamed(fault: PlannedFault, new: dict[str, str]) -> PlannedFault | None:
    links = tuple((new[a], new[b]) for a, b in fault.links if a in new and b in new)
    groups = tuple(
        group for g in fault.groups if (group := tuple(new[name] for name in g if name in new))
    )
    at = fault.at
    if isinstance(at, Landmark) and at.node is not None:
        if at.node not in new:
            return None
        at = replace(at, node=new[at.node])
    if (fault.links and not links) or (fault.groups and len(groups) < 2):
        return None
    nodes = tuple(new[name] for name in fault.nodes if name in new)
    if not nodes:
        return None
    return _aimed(replace(fault, at=at, nodes=nodes, links=links, groups=groups))


def _aimed(fault: PlannedFault) -> PlannedFault:
    """With the nodes that follow from its links or groups, in the cluster's order."""
    touched = {end for link in fault.links for end in link} | {n for g in fault.groups for n in g}
    nodes = sorted(touched, key=lambda name: int(name[1:])) if touched else fault.nodes
    return replace(fault, nodes=tuple(nodes))


def targets(schedule: Schedule) -> list[Schedule]:
    """One node, link or member of a group less, for each fault that has several."""
    made: list[Schedule] = []
    for number, fault in enumerate(schedule.faults):
        made += [_with_fault(schedule, number, smaller) for smaller in _fewer_targets(fault)]
    return made


def _fewer_targets(fault: PlannedFault) -> Iterator[PlannedFault]:
    if fault.links:
        half = len(fault.links) // 2
        if half > 1:
            yield _aimed(replace(fault, links=fault.links[:half]))
            yield _aimed(replace(fault, links=fault.links[half:]))
        for link in fault.links if len(fault.links) > 1 else ():
            yield _aimed(replace(fault, links=tuple(x for x in fault.links if x != link)))
    elif fault.groups:
        for group in fault.groups if len(fault.groups) > 2 else ():
            yield _aimed(replace(fault, groups=tuple(g for g in fault.groups if g != group)))
    elif len(fault.nodes) > 1:
        for node in fault.nodes:
            yield replace(fault, nodes=tuple(name for name in fault.nodes if name != node))


def durations(schedule: Schedule) -> list[Schedule]:
    """Half of each duration: of the faults, of the storm, of settling and of warming up."""
    made: list[Schedule] = []
    for number, fault in enumerate(schedule.faults):
        if fault.fault.instant:
            continue
        for_s = schedule.duration_s if fault.for_s is None else fault.for_s
        half = math.floor(for_s * 50) / 100
        if half >= DURATION_MIN_S:
            made.append(_with_fault(schedule, number, replace(fault, for_s=half)))
    last_s = max([_at_s(e.at) for e in schedule.faults] + [r.at_s for r in schedule.requests] + [0])
    made += [
        replace(schedule, duration_s=shorter_s)
        for shorter_s in (math.floor(last_s) + 1.0, math.floor(schedule.duration_s * 50) / 100)
        if max(last_s, DURATION_MIN_S) < shorter_s < schedule.duration_s
    ]
    if schedule.settle_s / 2 >= SETTLE_MIN_S:
        made.append(replace(schedule, settle_s=math.floor(schedule.settle_s * 50) / 100))
    return made


def _at_s(at: float | Landmark) -> float:
    return 0.0 if isinstance(at, Landmark) else at


def values(schedule: Schedule) -> list[Schedule]:
    """Plainer numbers: defaults of the cluster, round times and quantities, short requests."""
    made: list[Schedule] = []
    if schedule.expect.marks:
        made.append(replace(schedule, expect=Expect(invariants=schedule.expect.invariants)))
    base = Cluster(nodes=schedule.cluster.nodes, tenants=schedule.cluster.tenants)
    made.append(replace(schedule, cluster=base))
    for each in fields(Cluster):
        if each.name not in {"nodes", "tenants", "engine", "model", "plain_peers"}:
            value = {each.name: getattr(base, each.name)}
            made.append(replace(schedule, cluster=replace(schedule.cluster, **value)))
    used = {request.tenant for request in schedule.requests}
    tenants = tuple(t for t in schedule.cluster.tenants if t in used)
    if tenants and tenants != schedule.cluster.tenants:
        outside = {
            n: tuple(t for t in ts if t in used) for n, ts in schedule.cluster.outside.items()
        }
        cluster = replace(schedule.cluster, tenants=tenants, outside=outside)
        made.append(replace(schedule, cluster=cluster))
    made += _plain_requests(schedule)
    for number, fault in enumerate(schedule.faults):
        made += [_with_fault(schedule, number, plainer) for plainer in _plain_fault(fault)]
    return [each for each in made if each != schedule]


def _plain_requests(schedule: Schedule) -> list[Schedule]:
    changes: list[dict[str, Any]] = [  # fields of a request
        *({name: value} for name, values in _PLAIN_TOKENS.items() for value in values),
        {"document": 0},
        {"cancel_after_s": None},
        {"timeout_s": 60.0},
        {"tools": False, "stream": True} if schedule.cluster.remote else {"stream": False},
    ]
    requests = schedule.requests
    made: list[Schedule] = []
    for change in changes:
        everywhere = tuple(_if_plainer(request, change) for request in requests)
        made.append(replace(schedule, requests=everywhere))
    if len(requests) > EACH_REQUEST_MAX:
        return made
    for number, request in enumerate(requests):
        times = [{"at_s": at_s} for at_s in _rounder(request.at_s) if at_s < schedule.duration_s]
        for change in (*changes, *times, {"question": number}):
            plainer = _if_plainer(request, change)
            moved = (*requests[:number], plainer, *requests[number + 1 :])
            made.append(replace(schedule, requests=tuple(sorted(moved, key=lambda r: r.at_s))))
    return made


def _if_plainer(request: PlannedRequest, change: dict[str, Any]) -> PlannedRequest:  # its fields
    """Numbers of tokens and questions only fall, so that shrinking ends."""
    for name, value in change.items():
        now = getattr(request, name)
        counted = name in _PLAIN_TOKENS or name == "question"
        if counted and value is not None and now is not None and value >= now:
            return request
    return replace(request, **change)


def _plain_fault(fault: PlannedFault) -> Iterator[PlannedFault]:
    kind = type(fault.fault)
    settings = fault.fault.settings()
    if settings and kind() != fault.fault:
        yield replace(fault, fault=kind())
    default = kind().settings()
    for name, value in settings.items():
        if value == default[name]:
            continue
        limits = dict(kind.ranges())[name]
        for rounder in (default[name], *_rounder(value)):
            if limits.low <= rounder <= limits.high:
                yield replace(fault, fault=fault_of(kind.kind, {**settings, name: rounder}))
    if isinstance(fault.at, Landmark):
        if fault.at.count > 1:
            yield replace(fault, at=replace(fault.at, count=fault.at.count // 2))
    else:
        for at_s in (*([0.0] if fault.at else []), *_rounder(fault.at)):
            yield replace(fault, at=at_s)
    if fault.for_s is not None and not fault.fault.instant:
        for for_s in _rounder(fault.for_s):
            if for_s > 0:
                yield replace(fault, for_s=for_s)


def _rounder(value: float) -> list[float]:
    """The same number with fewer digits, the fewest first; none where it is plain already."""
    whole = float(math.floor(value))
    one = float(f"{value:.1g}")
    digits = len(f"{value:g}".replace(".", "").strip("0-"))
    return [
        each
        for each in dict.fromkeys((one, whole, round(value, 1)))
        if each != value and len(f"{each:g}".replace(".", "").strip("0-")) < digits
    ]


def _with_fault(schedule: Schedule, number: int, fault: PlannedFault) -> Schedule:
    faults = (*schedule.faults[:number], fault, *schedule.faults[number + 1 :])
    return replace(schedule, faults=faults)
