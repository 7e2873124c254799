"""What the parts of a scenario must be to each other, beyond what each is by itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from chaos.errors import ScenarioError
from chaos.faults.catalogue import FAULTS, fault_named, nearest
from chaos.faults.fault import Mode
from chaos.run import SEEN
from chaos.scenario.naming import fault_ids
from chaos.scenario.reader import Misplaced, Place
from chaos.scenario.scenario import FaultEntry, Landmark, Scenario
from chaos.scenario.selectors import Ground, known_node, members, resolve
from overlay.routing import POLICIES

ENGINES = ("toy", "embedded")
SYSTEMATIC_NODES = (2, 5)
OVERHEAD_TOKENS = 64
"""What the template and the canary add to a prompt, at most."""
TOOLS_TOKENS = 128
"""What the JSON around it does, where it names a tool."""


def validate(scenario: Scenario) -> None:
    """Raises ``Misplaced`` for the first thing that cannot be."""
    _cluster(scenario)
    _workload(scenario)
    _requests(scenario)
    for name in scenario.core:
        _node(name, scenario, ("core",))
    ids = fault_ids(scenario.faults)
    for number, entry in enumerate(scenario.faults, start=1):
        if ids.count(ids[number - 1]) > 1:
            raise Misplaced(("fault", number, "id"), f"there are two faults {ids[number - 1]!r}")
        _fault(entry, ids[number - 1], scenario, ("fault", number))
    _generators(scenario)
    for number, mark in enumerate(scenario.expect.marks, start=1):
        _one_of(mark, known_marks(), ("expect", "marks", number))


def known_marks() -> tuple[str, ...]:
    """What a scenario can ask to be seen: what follows from events, and what voids ask for."""
    instead = {void.instead for fault in FAULTS for void in fault.voids}
    shown = {mark for fault in FAULTS for mark in fault.shows}
    return (*SEEN, *sorted(instead | shown))


def _cluster(scenario: Scenario) -> None:
    cluster = scenario.cluster
    _one_of(cluster.engine, ENGINES, ("cluster", "engine"))
    _one_of(cluster.policy, [policy.name for policy in POLICIES], ("cluster", "policy"))
    if cluster.model and cluster.engine == "toy":
        raise Misplaced(("cluster", "model"), "the toy engine has none: leave it out")
    if not cluster.tenants or len(set(cluster.tenants)) < len(cluster.tenants):
        raise Misplaced(("cluster", "tenants"), "name one tenant or more, each once")
    for place, names in (
        (("cluster", "outside"), cluster.outside),
        (("cluster", "slow"), cluster.slow),
        (("cluster", "late"), cluster.late),
    ):
        for name in names:
            _node(name, scenario, (*place, name))
    for name, tenants in cluster.outside.items():
        for tenant in tenants:
            _one_of(tenant, cluster.tenants, ("cluster", "outside", name))
    for tenant in cluster.tenants:
        if not members(tenant, cluster):
            raise Misplaced(("cluster", "outside"), f"tenant {tenant} needs a member")
    for name, late_s in cluster.late.items():
        if late_s >= scenario.duration_s:
            raise Misplaced(("cluster", "late", name), "must start before the storm ends")
    for number, name in enumerate(cluster.remote, start=1):
        _node(name, scenario, ("cluster", "remote", number))
    if cluster.remote and scenario.mode is not Mode.NODE:
        raise Misplaced(("cluster", "remote"), 'remote servers are simulated: use mode = "node"')
    if len(cluster.late) == cluster.nodes:
        raise Misplaced(("cluster", "late"), "one node must be there from the start")


def _workload(scenario: Scenario) -> None:
    work, cluster = scenario.workload, scenario.cluster
    most = work.document_tokens + 2 * work.question_tokens + work.max_tokens + OVERHEAD_TOKENS
    most += TOOLS_TOKENS if cluster.remote else 0
    if work.requests_per_s and most > cluster.context_tokens:
        raise Misplaced(
            ("workload", "document_tokens"),
            f"prompt and answer can have {most} tokens, and [cluster] context_tokens is "
            f"{cluster.context_tokens}: make one smaller or the other larger",
        )


def _requests(scenario: Scenario) -> None:
    seen: set[str] = set()
    for number, request in enumerate(scenario.requests, start=1):
        place: Place = ("request", number)
        _node(request.ingress, scenario, (*place, "ingress"))
        _one_of(request.tenant, scenario.cluster.tenants, (*place, "tenant"))
        if request.at_s >= scenario.duration_s:
            raise Misplaced((*place, "at_s"), f"must be before {scenario.duration_s:g} s")
        if request.id in seen:
            raise Misplaced((*place, "id"), f"there are two requests {request.id!r}")
        seen.add(request.id)


def _fault(entry: FaultEntry, fault_id: str, scenario: Scenario, place: Place) -> None:
    if isinstance(entry.at, float) and entry.at >= scenario.duration_s:
        raise Misplaced(
            (*place, "at_s"),
            f"must be before the storm ends at {scenario.duration_s:g} s (duration_s)",
        )
    if entry.for_s is not None and entry.for_s <= 0:
        raise Misplaced((*place, "for_s"), "must be more than 0; left out it is until healing")
    if entry.for_s is not None and entry.fault.instant:
        raise Misplaced((*place, "for_s"), f"{entry.fault.kind} is done at once: leave it out")
    if isinstance(entry.at, Landmark) and entry.at.node is not None:
        _node(entry.at.node, scenario, (*place, "at"))
    try:
        ground = Ground(cluster=scenario.cluster, core=scenario.core)
        resolve(entry, fault_id, ground, scenario.seed)
    except ScenarioError as error:
        key = "links" if entry.links else "groups" if entry.groups else "target"
        raise Misplaced((*place, key), str(error)) from None


def _generators(scenario: Scenario) -> None:
    grid = scenario.systematic
    if scenario.swarm is not None and grid is not None:
        raise Misplaced(("systematic",), "a scenario has [swarm] or [systematic], not both")
    if grid is None:
        return
    low, high = SYSTEMATIC_NODES
    if not low <= scenario.cluster.nodes <= high:
        raise Misplaced(("cluster", "nodes"), f"[systematic] takes {low} to {high} nodes")
    for number, kind in enumerate(grid.kinds, start=1):
        try:
            fault_named(kind)
        except ScenarioError as error:
            raise Misplaced(("systematic", "kinds", number), str(error)) from None
    for number, mark in enumerate(grid.landmarks, start=1):
        if mark.node is not None:
            _node(mark.node, scenario, ("systematic", "landmarks", number))


def _node(name: str, scenario: Scenario, place: Place) -> None:
    try:
        known_node(name, scenario.cluster.names)
    except ScenarioError as error:
        raise Misplaced(place, str(error)) from None


def _one_of(name: str, known: Iterable[str] | Sequence[str], place: Place) -> None:
    words = list(known)
    if name not in words:
        hint = nearest(name, words) or f"; known are {', '.join(words)}"
        raise Misplaced(place, f"there is no {name!r}{hint}")
