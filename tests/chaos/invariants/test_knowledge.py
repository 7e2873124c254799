"""PHANTOM and CONVERGE: what is claimed, for how long, and what everybody knows in the end."""

from __future__ import annotations

import pytest

from chaos.faults.metadata import OverClaim, StaleDigest
from chaos.faults.topology import Isolate
from chaos.history import What
from chaos.invariants import converge, phantom
from chaos.invariants.invariant import Status
from chaos.invariants.phantom import SLACK_S
from chaos.scenario.scenario import Cluster, Limits
from tests.chaos.invariants.histories import SETTLED_S, Story, facts_of, is_held


def routed(
    story: Story,
    request: str,
    at_s: float,
    *,
    node: str = "n2",
    claimed: int = 64,
    held: int = 64,
    age_s: float = 1.0,
    false_s: float | None = 1.0,
) -> Story:
    false = claimed > held
    return story.tell(
        at_s,
        What.ROUTED,
        request,
        attempt=0,
        node=node,
        here=0,
        claims={"n2": claimed},
        held={"n2": held},
        age_s={"n2": age_s} if false else {},
        false_s={"n2": false_s} if false else {},
    )


def asked(**claim: object) -> Story:
    return routed(Story().phases().invoke("r1", 20.0), "r1", 20.0, **claim)  # type: ignore[arg-type]


# -- PHANTOM


def test_a_true_claim_is_as_promised() -> None:
    assert is_held(phantom.check(asked().answer("r1", 20.1, node="n2").run()))


def test_a_claim_that_was_true_within_its_age_is_as_promised() -> None:
    story = asked(held=0, age_s=3.0, false_s=3.0 + SLACK_S)
    assert is_held(phantom.check(story.answer("r1", 20.1, node="n2").run()))


@pytest.mark.parametrize("false_s", [3.1 + SLACK_S, None])
def test_a_claim_that_outlives_its_age_is_found(false_s: float | None) -> None:
    run = asked(held=0, age_s=3.0, false_s=false_s).answer("r1", 20.1, node="n2").run()
    assert facts_of(run, phantom.check(run)) == ["routed r1"]


def test_a_claim_that_nobody_measured_is_not_exercised() -> None:
    run = Story().phases().invoke("r1", 20.0)
    run.tell(20.0, What.ROUTED, "r1", node="n2", claims={"n2": 64}, held={"n2": 0})
    assert phantom.check(run.run()).status is Status.NOT_EXERCISED


@pytest.mark.parametrize("lie", [StaleDigest(), OverClaim()])
def test_a_liar_s_claims_may_be_old_and_cost_a_hop_and_no_more(
    lie: StaleDigest | OverClaim,
) -> None:
    story = asked(held=0, age_s=0.0, false_s=None).fault(lie, "n2", from_s=15.0)
    assert is_held(phantom.check(story.answer("r1", 20.1, node="n2").run()))
    story = asked(held=0, age_s=0.0, false_s=None).fault(lie, "n2", from_s=15.0)
    run = story.answer("r1", 20.1, (), end=What.FAIL, code="no_capable_peer").run()
    assert facts_of(run, phantom.check(run)) == ["routed r1", "fail r1"]


def test_a_failure_at_a_node_that_was_cut_off_is_not_the_claim_s() -> None:
    story = asked(held=0).fault(Isolate(), "n2", from_s=15.0)
    run = story.answer("r1", 20.1, (), end=What.FAIL, code="no_capable_peer").run()
    assert not phantom.check(run).witnesses


def test_a_request_that_was_at_fault_itself_does_not_count() -> None:
    story = asked(held=0)
    run = story.answer("r1", 20.1, (), end=What.FAIL, code="too_long", expected=True).run()
    assert not phantom.check(run).witnesses


def test_a_second_hop_is_found() -> None:
    run = asked().answer("r1", 20.1, node="n2", hops=2).run()
    assert facts_of(run, phantom.check(run)) == ["routed r1", "ok r1"]


def misled(*nodes: str) -> Story:
    """A request that was sent to one after the other for a claim that was false."""
    story = Story().phases().invoke("r1", 20.0)
    for attempt, node in enumerate(nodes):
        told = {"claims": {node: 64}, "held": {node: 0}, "age_s": {node: 1.0}}
        story.tell(20.0, What.ROUTED, "r1", node=node, attempt=attempt, false_s={node: 2.0}, **told)
    return story


def test_a_false_claim_may_cost_a_hop_and_two_may_not_cost_two() -> None:
    assert is_held(phantom.check(misled("n2").answer("r1", 20.1).run()))
    run = misled("n2", "n3").answer("r1", 20.1).run()
    assert facts_of(run, phantom.check(run)) == ["routed r1", "routed r1"]


def test_a_hop_to_a_node_that_was_cut_off_is_not_the_claim_s() -> None:
    story = misled("n2", "n3").fault(Isolate(), "n2", from_s=15.0)
    assert is_held(phantom.check(story.answer("r1", 20.1).run()))


# -- CONVERGE


def ended(**claims: object) -> Story:
    told = {"tenant": "a", "phantom": 0, "unpublished": 0, "truncated": False, **claims}
    return Story().phases().tell(SETTLED_S, What.CLAIMS, "n1", **told)


def agreed(story: Story, after_s: float) -> Story:
    return story.tell(70.0 + after_s, What.CONVERGED, after_s=after_s)


def test_agreement_in_time_is_held_and_its_share_told() -> None:
    found = converge.check(agreed(ended(), 15.0).run())
    assert is_held(found)
    assert found.share_of_bound == 0.5


def test_agreement_too_late_is_found() -> None:
    run = agreed(ended(), 31.0).run()
    assert facts_of(run, converge.check(run)) == ["phase", "converged"]


def test_no_agreement_is_found_with_what_differs() -> None:
    story = ended().tell(
        SETTLED_S, What.DIVERGED, "n1", origin="n2", tenant="a", missing=2, extra=0
    )
    run = story.run()
    assert facts_of(run, converge.check(run)) == ["diverged n1"]


def test_no_agreement_is_found_where_nothing_differs_at_last() -> None:
    run = ended().run()
    assert facts_of(run, converge.check(run)) == ["phase", "phase"]


def test_a_run_that_ends_before_the_bound_shows_nothing() -> None:
    run = Story().phases(settled=80.0).run()
    assert converge.check(run).status is Status.NOT_EXERCISED
    assert converge.check(Story().run()).status is Status.NOT_EXERCISED


def test_published_and_not_held_is_found() -> None:
    run = agreed(ended(phantom=1), 5.0).run()
    assert facts_of(run, converge.check(run)) == ["claims n1"]


def test_held_and_not_published_is_found_unless_it_was_cut() -> None:
    run = agreed(ended(unpublished=1), 5.0).run()
    assert facts_of(run, converge.check(run)) == ["claims n1"]
    assert is_held(converge.check(agreed(ended(unpublished=1, truncated=True), 5.0).run()))


def test_a_liar_of_late_is_not_compared_and_the_others_are() -> None:
    def lied(node: str) -> Story:
        story = agreed(Story().phases(), 5.0).fault(
            StaleDigest(), "n1", from_s=60.0, to_s=105.0, mark="claims_differ"
        )
        return story.tell(
            SETTLED_S, What.CLAIMS, node, tenant="a", phantom=3, unpublished=0, truncated=False
        )

    assert not converge.check(lied("n1").run()).witnesses
    assert converge.check(lied("n1").run()).voided == 1
    assert converge.check(lied("n2").run()).witnesses


def test_only_what_was_healed_is_asked_for() -> None:
    story = agreed(ended(phantom=1), 5.0)
    story.core = ("n2", "n3")
    assert is_held(converge.check(story.run()))


def test_the_bound_is_the_scenario_s() -> None:
    story = agreed(ended(), 5.0)
    story.limits = Limits(converge_s=4.0)
    story.cluster = Cluster(nodes=3)
    assert converge.check(story.run()).witnesses
