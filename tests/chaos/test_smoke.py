"""The smoke test's own plan, and what it complains about. ``make chaos-smoke`` runs all of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chaos.faults.catalogue import FAULTS
from chaos.faults.fault import SIMULATED
from chaos.invariants.invariant import Id, Status
from chaos.scenario.load import SHIPPED
from chaos.smoke import SCENARIOS, cases, complaint
from chaos.tried import FaultTried, Found, Tried

GOOD = Tried(
    name="node:latency",
    seed=1,
    verdict="valid",
    faults=(FaultTried(kind="latency", applied=True, effects=3, undone=True),),
)
(FAULT,) = GOOD.faults


def test_every_simulated_fault_is_in_it_once_for_each_of_its_modes_and_every_regression() -> None:
    names = [name for name, _ in cases()]
    assert len(set(names)) == len(names)
    faults = {f"{mode.value}:{kind.kind}" for kind in FAULTS for mode in kind.modes & SIMULATED}
    kept = {f"regression:{path.stem}" for path in (SHIPPED / "regressions").glob("*.toml")}
    files = {f"scenario:{name}" for name in SCENARIOS}
    assert set(names) == faults | kept | files
    for name, schedule in cases():
        mode, _, kind = name.partition(":")
        if mode not in {"regression", "scenario"}:
            assert schedule.mode.value == mode
            assert schedule.faults[0].fault.kind == kind


@pytest.mark.parametrize(
    ("tried", "said"),
    [
        (GOOD, None),
        (replace(GOOD, error="boom", verdict="broken"), "boom"),
        (replace(GOOD, verdict="unknown"), "unknown "),
        (
            replace(
                GOOD,
                verdict="violated",
                findings=(Found(invariant=Id.OUTPUT, status=Status.VIOLATED),),
            ),
            "violated OUTPUT",
        ),
        (replace(GOOD, faults=(replace(FAULT, effects=0),)), "latency had no effect"),
        (replace(GOOD, faults=(replace(FAULT, undone=False),)), "not undone"),
        (
            replace(GOOD, faults=(replace(FAULT, missed=True, why="nobody"),)),
            "latency was not applied: nobody",
        ),
        (
            replace(GOOD, faults=(replace(FAULT, unsupported=True, why="no"),)),
            "latency was not applied: no",
        ),
        (replace(GOOD, name="regression:x", verdict="unknown"), None),
        (replace(GOOD, name="scenario:x", verdict="unknown"), "unknown "),
        (replace(GOOD, name="scenario:x", faults=(replace(FAULT, effects=0),)), None),
    ],
)
def test_it_complains_of_what_is_not_as_promised(tried: Tried, said: str | None) -> None:
    assert complaint(tried) == said
