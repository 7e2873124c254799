"""AVAILABLE and NO-WORSE: answers that come, and when."""

from __future__ import annotations

import pytest

from chaos.faults.process import Kill9
from chaos.faults.worker import LieCached, SlowGpu, Stall
from chaos.history import What
from chaos.invariants import available, no_worse
from chaos.invariants.invariant import Status
from chaos.invariants.no_worse import LATE_MIN, REQUESTS_MIN, percentile
from chaos.scenario.scenario import Limits
from chaos.scenario.schedule import PlannedRequest
from tests.chaos.invariants.histories import Story, facts_of, is_held, without_twin


def failed(**data: object) -> Story:
    story = Story().phases().invoke("r1", 20.0)
    return story.answer("r1", 21.0, (), end=What.FAIL, **{"code": "broken", "message": "", **data})


# -- AVAILABLE


def test_an_answered_request_is_as_promised() -> None:
    run = Story().phases().invoke("r1", 20.0).answer("r1", 20.1).run()
    assert is_held(available.check(run))


def test_a_failed_request_is_found() -> None:
    run = failed().run()
    assert facts_of(run, available.check(run)) == ["invoke r1", "fail r1"]
    assert available.check(without_twin(run)).witnesses


@pytest.mark.parametrize("end", [What.CANCELLED, What.INFO])
def test_what_nobody_knows_or_nobody_wanted_counts_neither_way(end: What) -> None:
    run = Story().phases().invoke("r1", 20.0).answer("r1", 21.0, (), end=end).run()
    assert available.check(run).status is Status.NOT_EXERCISED


def test_a_request_that_is_wrong_itself_may_fail() -> None:
    assert available.check(failed(expected=True).run()).status is Status.NOT_EXERCISED


def test_what_the_ingress_could_not_do_alone_may_fail() -> None:
    story = failed()
    story.ttft_s = {"r2": 0.1}
    assert available.check(story.run()).status is Status.NOT_EXERCISED


def test_a_deadline_that_could_not_be_met_alone_may_pass() -> None:
    story = failed(code="deadline_exceeded")
    story.requests.append(
        PlannedRequest(
            id="r1",
            at_s=10.0,
            ingress="n1",
            tenant="a",
            document=0,
            document_tokens=64,
            question=0,
            question_tokens=8,
            max_tokens=8,
            timeout_s=1.0,
        )
    )
    assert available.check(story.run()).witnesses
    story.ttft_s["r1"] = 0.9
    assert available.check(story.run()).status is Status.NOT_EXERCISED


def test_a_lost_ingress_is_no_failure_and_other_ingresses_stay_checked() -> None:
    story = failed().fault(Kill9(), "n1", mark="ingress_lost")
    found = available.check(story.run())
    assert (found.status, found.voided) == (Status.NOT_EXERCISED, 1)
    story = failed().fault(Kill9(), "n2", mark="ingress_lost")
    assert available.check(story.run()).status is Status.VIOLATED


def test_a_failure_under_a_void_must_be_detected() -> None:
    run = failed().fault(Kill9(), "n1").run()
    assert facts_of(run, available.check(run)) == ["fault_begin kill9-0", "fail r1"]


@pytest.mark.parametrize(("minimum", "holds"), [(0.5, True), (0.51, False)])
def test_the_share_that_must_be_answered_is_the_scenario_s(minimum: float, holds: bool) -> None:
    story = failed().invoke("r2", 30.0).answer("r2", 30.1)
    story.limits = Limits(success_fraction_min=minimum)
    assert is_held(available.check(story.run())) == holds


# -- NO-WORSE


def asked(
    ttft_s: float,
    *,
    count: int = 2 * REQUESTS_MIN,
    late: int = LATE_MIN + 1,
    again_s: float | None = None,
) -> Story:
    """Many requests; the first tokens of the last ones come after ``ttft_s``, others in time.

    After ``again_s`` each is sent on to a second peer.
    """
    story = Story().phases()
    for number in range(count):
        at_s = 20.0 + number
        story.invoke(f"r{number}", at_s)
        after_s = ttft_s if number >= count - late else 0.05
        for attempt, later_s in enumerate((0.0, *(() if again_s is None else (again_s,)))):
            story.tell(
                at_s + later_s,
                What.ROUTED,
                f"r{number}",
                node="n2",
                attempt=attempt,
                claims={},
                held={},
            )
        story.answer(f"r{number}", at_s + after_s)
    return story


def test_a_first_token_as_soon_as_without_an_overlay_is_as_promised() -> None:
    assert is_held(no_worse.check(asked(0.2).run()))


def test_a_late_first_token_is_found_and_its_share_told() -> None:
    run = asked(0.21).run()
    found = no_worse.check(run)
    assert facts_of(run, found) == ["invoke r17", "tokens r17"]
    assert found.share_of_bound is not None
    assert found.share_of_bound > 1


def test_clients_that_leave_after_a_long_wait_have_waited() -> None:
    story = asked(0.1)
    for number in range(LATE_MIN + 1):
        story.invoke(f"c{number}", 50.0).tell(55.0, What.CANCELLED, f"c{number}", by="client")
    run = story.run()
    assert facts_of(run, no_worse.check(run)) == ["invoke c0", "cancelled c0"]


def test_a_few_may_come_late_in_any_run() -> None:
    assert is_held(no_worse.check(asked(5.0, late=LATE_MIN).run()))


@pytest.mark.parametrize(("late", "holds"), [(5, True), (6, False)])
def test_in_a_long_run_one_in_a_hundred_may(late: int, holds: bool) -> None:
    assert is_held(no_worse.check(asked(5.0, count=500, late=late).run())) == holds


def test_a_silent_peer_may_cost_its_silence() -> None:
    assert is_held(no_worse.check(asked(1.69, again_s=1.5).run()))
    assert no_worse.check(asked(1.71, again_s=1.5).run()).witnesses


def test_no_more_than_the_silence_that_it_kept_is_allowed_for() -> None:
    assert is_held(no_worse.check(asked(0.69, again_s=0.5).run()))
    assert no_worse.check(asked(0.71, again_s=0.5).run()).witnesses


def test_a_peer_that_refuses_at_once_was_not_silent() -> None:
    assert no_worse.check(asked(0.3, again_s=0.01).run()).witnesses


def test_the_ratio_is_the_scenario_s() -> None:
    story = asked(0.21)
    story.limits = Limits(ttft_ratio_p99_max=2.0)
    assert is_held(no_worse.check(story.run()))


def test_a_few_requests_say_nothing() -> None:
    found = no_worse.check(asked(5.0, count=REQUESTS_MIN - 1).run())
    assert found.status is Status.NOT_EXERCISED


@pytest.mark.parametrize(("began_s", "counts"), [(36.0, False), (31.0, True)])
def test_a_peer_that_has_just_become_slower_is_not_known_to_be(
    began_s: float, *, counts: bool
) -> None:
    """The last three, of the 37th second and later, are slow at n2, which they were sent to."""
    story = asked(0.5, again_s=0.0).fault(SlowGpu(), "n2", from_s=began_s, to_s=60.0)
    assert bool(no_worse.check(story.run()).witnesses) == counts


@pytest.mark.parametrize(("for_s", "holds"), [(0.4, True), (0.1, False)])
def test_an_engine_that_stands_still_may_cost_as_long(for_s: float, *, holds: bool) -> None:
    """The last three are at n2 when it does, each 0.5 s."""
    story = asked(0.5, again_s=0.0)
    for number in range(3):
        at_s = 37.0 + number
        story.fault(Stall(), "n2", from_s=at_s, to_s=at_s + for_s, mark="worker_slow")
    assert is_held(no_worse.check(story.run())) is holds


def test_requests_at_a_slow_host_do_not_count() -> None:
    story = asked(0.5).fault(SlowGpu(), "n1", from_s=36.9, to_s=39.5)
    found = no_worse.check(story.run())
    assert is_held(found)
    assert found.voided == LATE_MIN + 1


def test_a_host_that_computes_what_it_says_was_cached_hurts_its_own_clients_alone() -> None:
    own = asked(0.5).fault(LieCached(), "n1", from_s=36.9, to_s=39.5, mark="lie_seen")
    found = no_worse.check(own.run())
    assert is_held(found)
    assert found.voided == LATE_MIN + 1
    others = asked(0.5).fault(LieCached(), "n2", from_s=36.9, to_s=39.5, mark="lie_seen")
    found = no_worse.check(others.run())
    assert (len(found.witnesses), found.voided) == (1, 0)


def test_a_percentile_is_one_of_the_values() -> None:
    assert percentile([3.0]) == 3.0
    assert percentile([float(number) for number in range(1, 101)]) == 99.0
    assert percentile([float(number) for number in range(1, 51)]) == 50.0
