"""Schedules as JSON and as scenario files: what comes back is what went in."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.errors import ScenarioError
from chaos.scenario.data import (
    scenario_toml,
    schedule_from_json,
    schedule_json,
    timeline,
)
from chaos.scenario.load import load, parse, shipped
from chaos.scenario.plan import plan
from chaos.scenario.scenario import Scenario, Swarm, Workload

SMALL = Scenario(
    name='quo"te\\ and ünicode\n', workload=Workload(requests_per_s=0.3), swarm=Swarm()
)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_schedule_comes_back_from_json_and_from_its_timeline(seed: int) -> None:
    schedule = plan(SMALL, seed)
    assert schedule_from_json(schedule_json(schedule)) == schedule
    written = timeline(schedule, about="line one\nline two")
    again = parse(scenario_toml(written))
    assert again == written
    assert plan(again) == schedule


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_a_shipped_scenario_comes_back_from_its_own_text(path: object) -> None:
    scenario = load(path)  # type: ignore[arg-type]  # pytest's parameter
    assert parse(scenario_toml(scenario)) == scenario


def test_a_damaged_schedule_is_refused_with_its_place() -> None:
    text = schedule_json(plan(SMALL, 1))
    with pytest.raises(ScenarioError, match="is not JSON"):
        schedule_from_json(text[:-1])
    with pytest.raises(ScenarioError, match="cluster, nodes: must be from 1 to 64"):
        schedule_from_json(text.replace(b'"nodes":', b'"nodes":9', 1))
