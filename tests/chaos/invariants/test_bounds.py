"""BOUNDED, LIVE and CLEAN: what grows, what ends, and what is left."""

from __future__ import annotations

import pytest

from chaos.faults.fault import Mode
from chaos.history import What
from chaos.invariants import bounded, clean, live
from chaos.invariants.catalogue import CHECKS, check_all, check_of
from chaos.invariants.invariant import Id, Status
from chaos.scenario.scenario import Expect
from tests.chaos.invariants.histories import COLD, SETTLED_S, Story, facts_of, is_held


def gauge(
    story: Story,
    at_s: float,
    value: float,
    *,
    node: str = "n1",
    cap: float | None = None,
    baseline: float | None = None,
) -> Story:
    return story.tell(at_s, What.GAUGE, node, name="queue", value=value, cap=cap, baseline=baseline)


# -- BOUNDED


def test_a_value_up_to_its_cap_is_as_promised() -> None:
    assert is_held(bounded.check(gauge(Story().phases(), 30.0, 8, cap=8).run()))


def test_a_value_over_its_cap_is_found_with_the_one_before() -> None:
    story = gauge(gauge(Story().phases(), 30.0, 7, cap=8), 31.0, 9, cap=8)
    run = gauge(story, 32.0, 1, cap=8).run()
    assert facts_of(run, bounded.check(run)) == ["gauge n1", "gauge n1"]


def test_what_has_not_come_back_when_all_has_settled_is_found() -> None:
    story = gauge(Story().phases(), 30.0, 90, baseline=1)
    assert is_held(bounded.check(gauge(story, SETTLED_S, 1, baseline=1).run()))
    run = gauge(story, SETTLED_S + 1, 2, baseline=1).run()
    assert facts_of(run, bounded.check(run)) == ["phase", "gauge n1"]


def test_what_need_not_come_back_may_stay() -> None:
    run = gauge(Story().phases(), SETTLED_S, 90, baseline=None, cap=100).run()
    assert is_held(bounded.check(run))


def test_a_node_that_is_not_healed_need_not_come_back_but_keeps_its_caps() -> None:
    story = gauge(Story().phases(), SETTLED_S, 9, node="n3", baseline=1)
    story.core = ("n1", "n2")
    assert bounded.check(story.run()).status is Status.NOT_EXERCISED
    assert bounded.check(gauge(story, SETTLED_S, 9, node="n3", cap=8).run()).witnesses


def test_a_node_that_was_not_seen_since_healing_is_not_compared() -> None:
    run = gauge(Story().phases(), 30.0, 9, baseline=1).run()
    assert bounded.check(run).status is Status.NOT_EXERCISED


# -- LIVE


def test_an_end_within_the_grace_time_is_as_promised() -> None:
    found = live.check(Story().phases().tell(111.0, What.STOPPED, "n1", took_s=7.0).run())
    assert is_held(found)
    assert found.share_of_bound == pytest.approx(0.2)


def test_an_end_that_takes_longer_is_found() -> None:
    run = Story().phases().tell(111.0, What.STOPPED, "n1", took_s=36.0).run()
    assert facts_of(run, live.check(run)) == ["stopped n1"]


def test_what_hangs_is_found_with_when_it_began() -> None:
    story = Story().phases().tell(0.0, What.NODE_UP, "n1", generation=1, why="start")
    run = story.tell(111.0, What.STUCK, "n1", why="asked to leave", for_s=35.0).run()
    assert facts_of(run, live.check(run)) == ["node_up n1", "stuck n1"]
    story = Story().phases().invoke("r1", 20.0)
    run = story.tell(111.0, What.STUCK, "r1", why="no end", for_s=35.0).run()
    assert facts_of(run, live.check(run))[0] == "invoke r1"


def test_a_request_that_stands_still_after_healing_is_found() -> None:
    story = Story().phases().invoke("r1", 60.0).answer("r1", 60.5, COLD[:1], end=None)
    run = story.answer("r1", 101.0, COLD[1:]).run()
    found = live.check(run)
    assert facts_of(run, found) == ["tokens r1", "started r1"]
    assert found.share_of_bound == pytest.approx(31.0 / 30.0)


def test_one_that_never_moves_on_is_found_at_the_end_of_the_run() -> None:
    run = Story().phases().invoke("r1", 60.0).run()
    assert facts_of(run, live.check(run)) == ["invoke r1", "invoke r1"]


def test_a_pause_while_all_is_broken_is_not_compared() -> None:
    story = Story().phases().invoke("r1", 20.0).answer("r1", 69.0)
    assert live.check(story.run()).status is Status.NOT_EXERCISED
    story = Story().phases().invoke("r1", 20.0).answer("r1", 75.0)
    assert is_held(live.check(story.run()))


def test_requests_at_nodes_that_stay_broken_may_stand_still() -> None:
    story = Story().phases().invoke("r1", 60.0, ingress="n3")
    story.core = ("n1", "n2")
    assert live.check(story.run()).status is Status.NOT_EXERCISED


# -- CLEAN


def test_a_live_run_that_left_nothing_is_clean() -> None:
    story = Story(mode=Mode.LIVE).phases()
    assert clean.check(story.run()).status is Status.NOT_EXERCISED
    assert is_held(clean.check(story.tell(113.0, What.PHASE, name="looked").run()))


def test_what_was_left_is_found() -> None:
    story = Story(mode=Mode.LIVE).phases().tell(113.0, What.LEFT, "/run/x.sock", kind="socket")
    run = story.run()
    assert facts_of(run, clean.check(run)) == ["phase", "left /run/x.sock"]


def test_a_simulation_has_nothing_to_leave() -> None:
    assert clean.check(Story().phases().run()).status is Status.NOT_EXERCISED


# -- the catalogue


def test_every_invariant_has_one_check_with_its_own_bug_and_scenario() -> None:
    assert [check.id for check in CHECKS] == list(Id)
    assert len({check.plant for check in CHECKS}) == len(CHECKS)
    assert len({check.scenario for check in CHECKS}) == len(CHECKS)
    assert all(check.statement.endswith(".") for check in CHECKS)


def test_only_what_the_schedule_expects_is_checked() -> None:
    run = Story().phases().run()
    assert [found.invariant for found in check_all(run)] == list(Id)
    object.__setattr__(run.schedule, "expect", Expect(invariants=(Id.LIVE, Id.OUTPUT)))
    assert [found.invariant for found in check_all(run)] == [Id.OUTPUT, Id.LIVE]


@pytest.mark.parametrize("invariant", list(Id))
def test_an_empty_history_exercises_nothing(invariant: Id) -> None:
    found = check_of(invariant).check(Story().run())
    assert (found.status, found.exercised, found.voided) == (Status.NOT_EXERCISED, 0, 0)
