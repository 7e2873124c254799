"""One schedule, run and judged: what commands, sweeps and the shrinker do with every seed."""

from __future__ import annotations

import importlib
from typing import Protocol

from chaos.errors import ScenarioError
from chaos.garbage import seldom_collected
from chaos.modes import registry
from chaos.modes.registry import OnEvent, imported
from chaos.scenario.schedule import Schedule
from chaos.verdict import Judged, judge

DEFAULT = "chaos.examine:examine"


class Examine(Protocol):
    """Runs a schedule and judges the run."""

    def __call__(
        self, schedule: Schedule, *, plant: str | None = None, on_event: OnEvent | None = None
    ) -> Judged: ...


def examine(
    schedule: Schedule, *, plant: str | None = None, on_event: OnEvent | None = None
) -> Judged:
    """Runs a schedule in its mode and checks every invariant that it expects.

    Raises:
        Unsupported: Where this installation lacks the mode.
    """
    with seldom_collected():
        run = registry.run(schedule, plant=plant, on_event=on_event)
        checks = imported("chaos.invariants.catalogue", "checkers")
        return judge(run, checks.check_all(run))


def examine_named(text: str) -> Examine:
    """What ``module:function`` names. Raises ``ScenarioError`` where there is none."""
    module, _, name = text.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        raise ScenarioError(f"{text!r} names no function: write module:function") from None
    assert callable(found)
    return found  # type: ignore[no-any-return]  # of the shape that its caller promised
