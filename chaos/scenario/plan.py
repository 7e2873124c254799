"""A scenario and a seed to a schedule: everything that is random is drawn here, before the run."""

from __future__ import annotations

from dataclasses import replace

from chaos.errors import ScenarioError
from chaos.faults.fault import Mode
from chaos.scenario import swarm, systematic
from chaos.scenario.naming import fault_ids
from chaos.scenario.scenario import Scenario
from chaos.scenario.schedule import PlannedFault, PlannedRequest, Schedule
from chaos.scenario.selectors import Ground, resolve
from chaos.scenario.workload import plan_requests


def plan(scenario: Scenario, seed: int | None = None, *, mode: Mode | None = None) -> Schedule:
    """The schedule of a seed (the scenario's own where it is None).

    Of a systematic scenario the seed is an index; its requests follow from the scenario's own seed.

    Raises:
        ScenarioError: For a selector that selects nothing, or an index outside an enumeration.
    """
    seed = scenario.seed if seed is None else seed
    if seed < 0:
        raise ScenarioError(f"a seed is 0 or more, not {seed}")
    scenario = replace(scenario, mode=mode or scenario.mode)
    if scenario.cluster.remote and scenario.mode is not Mode.NODE:
        raise ScenarioError(f"{scenario.name} has remote servers, which are of node mode only")
    if scenario.cluster.certificate_s and scenario.mode is not Mode.NODE:
        raise ScenarioError(f"{scenario.name} has certificate_s, which is of node mode only")
    base_seed = scenario.seed if scenario.systematic else seed
    drawn: tuple[PlannedFault, ...] = ()
    core = scenario.core
    if scenario.swarm is not None:
        if scenario.swarm.draw_cluster:
            scenario = swarm.draw_settings(scenario, seed)
        around = swarm.weather(scenario, seed)
        core = around.core
        drawn = swarm.draw_faults(scenario, seed, around)
    elif scenario.systematic is not None:
        drawn = systematic.faults_at(scenario, seed)
    requests = _requests(scenario, base_seed)
    ground = Ground(
        cluster=scenario.cluster,
        core=core,
        ingresses=tuple(dict.fromkeys(request.ingress for request in requests)),
    )
    ids = fault_ids(scenario.faults)
    written = tuple(
        resolve(entry, fault_id, ground, base_seed)
        for entry, fault_id in zip(scenario.faults, ids, strict=True)
    )
    return Schedule(
        name=scenario.name,
        mode=scenario.mode,
        seed=seed,
        cluster=scenario.cluster,
        limits=scenario.limits,
        expect=scenario.expect,
        warm_up_s=scenario.warm_up_s,
        duration_s=scenario.duration_s,
        settle_s=scenario.settle_s,
        core=core,
        requests=requests,
        faults=written + drawn,
        proves=scenario.proves,
    )


def _requests(scenario: Scenario, seed: int) -> tuple[PlannedRequest, ...]:
    """Those of the workload and those that are written out, in the order of their times."""
    made = plan_requests(
        scenario.workload, scenario.cluster, seed=seed, duration_s=scenario.duration_s
    )
    known = {request.id for request in scenario.requests}
    both = [request for request in made if request.id not in known]
    return tuple(sorted([*both, *scenario.requests], key=lambda request: request.at_s))
