"""Which runner runs a schedule, by its mode. Runners are imported when they are needed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import trio

from chaos.errors import ScenarioError, Unsupported
from chaos.faults.catalogue import nearest
from chaos.faults.fault import Mode
from chaos.history import Event
from chaos.run import Run
from chaos.scenario.schedule import Schedule

OnEvent = Callable[[Event], None]

_RUNNERS = {
    Mode.CORE: "chaos.modes.core.runner",
    Mode.NODE: "chaos.modes.node.runner",
    Mode.LIVE: "chaos.modes.live.runner",
}


def run(schedule: Schedule, *, plant: str | None = None, on_event: OnEvent | None = None) -> Run:
    """Runs a schedule to its end.

    Args:
        schedule: What to do; its mode says where.
        plant: Name of a planted bug to switch on.
        on_event: Called with each event of the history as it happens.

    Raises:
        Unsupported: Where this installation has no such mode.
        ScenarioError: For a planted bug that there is not.
    """
    planted = None if plant is None else plant_named(plant)
    if planted is not None and planted.live != (schedule.mode is Mode.LIVE):
        needed = "live" if planted.live else "node"
        raise ScenarioError(f"the planted bug {planted.name} needs mode {needed}")
    runner = imported(_RUNNERS[schedule.mode], f"mode {schedule.mode.value}")
    if schedule.mode is Mode.LIVE:
        live = partial(runner.run_live, schedule, plant=planted, on_event=on_event)
        return _run_of(trio.run(live))
    name = "run_core" if schedule.mode is Mode.CORE else "run_node"
    return _run_of(getattr(runner, name)(schedule, plant=planted, on_event=on_event))


def plant_named(name: str) -> Any:  # chaos.plants.plant.Plant
    """A planted bug. Raises ``ScenarioError`` that names the nearest one."""
    plants = imported("chaos.plants.catalogue", "planted bugs").PLANTS
    if name not in plants:
        hint = nearest(name, list(plants)) or f"; known are {', '.join(sorted(plants))}"
        raise ScenarioError(f"there is no planted bug {name!r}{hint}")
    return plants[name]


def imported(module: str, what: str) -> ModuleType:
    """A module of the harness. Raises ``Unsupported`` where this installation lacks it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise Unsupported(f"this installation has no {what} ({module})") from None


def _run_of(value: object) -> Run:
    assert isinstance(value, Run), value
    return value
