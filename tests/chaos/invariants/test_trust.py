"""TENANT, AUTHORITY and MONOTONE: who uses, changes and believes what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.faults.worker import LieCached
from chaos.history import What
from chaos.invariants import authority, monotone, tenant
from chaos.invariants.authority import PROPAGATION_S
from chaos.invariants.invariant import Status
from chaos.scenario.scenario import Cluster
from tests.chaos.invariants.histories import Story, facts_of, is_held


def served(
    story: Story, at_s: float, of: str, cached: int, explained: int, node: str = "n2"
) -> Story:
    return story.tell(
        at_s,
        What.SERVED,
        node,
        request=f"r{at_s:g}",
        tenant=of,
        prompt_tokens=100,
        cached_tokens=cached,
        explained_tokens=explained,
    )


def accepted(story: Story, at_s: float, seq: int, *, observer: str = "n1", **data: object) -> Story:
    told: dict[str, object] = {
        "origin": "n2",
        "identity": 1,
        "object": "head",
        "generation": 5,
        "seq": seq,
        "stream": None,
        "sender": "n2",
        "genuine": True,
    }
    return story.tell(at_s, What.ACCEPTED, observer, **{**told, **data})


# -- TENANT


def test_a_hit_that_the_tenant_s_own_requests_explain_is_its_own() -> None:
    assert is_held(tenant.check(served(Story(), 20.0, "a", 64, 64).run()))


def test_a_hit_by_another_tenant_s_blocks_is_found_with_whose_they_were() -> None:
    story = served(served(Story(), 20.0, "a", 0, 0), 21.0, "a", 0, 0, node="n3")
    run = served(story, 22.0, "b", 64, 0).run()
    found = tenant.check(run)
    assert facts_of(run, found) == ["served n2", "served n2"]
    assert found.witnesses[0].events == (0, 2)


def test_with_one_tenant_nothing_is_exercised() -> None:
    story = Story(cluster=Cluster(nodes=3, tenants=("a",)))
    assert tenant.check(served(story, 20.0, "a", 64, 0).run()).status is Status.NOT_EXERCISED


def test_a_canary_at_a_host_of_others_is_found() -> None:
    run = Story().tell(20.0, What.LEAK, "n3", tenant="a", where="a gossip message").run()
    assert facts_of(run, tenant.check(run)) == ["leak n3"]


def test_a_host_that_lies_about_its_cache_is_checked_as_the_others_are() -> None:
    story = Story().fault(LieCached(), "n2", mark="lie_seen")
    found = tenant.check(served(served(story, 24.0, "b", 0, 0), 25.0, "a", 100, 0).run())
    assert (found.exercised, found.voided, len(found.witnesses)) == (2, 0, 1)


# -- AUTHORITY


def test_what_its_origin_signed_is_believed() -> None:
    assert is_held(authority.check(accepted(Story(), 20.0, 1).run()))


@pytest.mark.parametrize("kind", ["record", "head", "frame"])
def test_a_forgery_that_is_believed_is_found(kind: str) -> None:
    run = accepted(Story(), 20.0, 1, object=kind, genuine=False).run()
    assert facts_of(run, authority.check(run)) == ["accepted n1"]


def test_a_revoked_origin_is_believed_no_more() -> None:
    story = Story().tell(20.0, What.REVOKED, "n2", identity=1)
    run = accepted(accepted(story, 20.1, 1), 20.1 + PROPAGATION_S, 2).run()
    found = authority.check(run)
    assert facts_of(run, found) == ["revoked n2", "accepted n1"]
    assert len(found.witnesses) == 1


def test_a_host_that_was_revoked_and_joined_again_is_another() -> None:
    story = Story().tell(20.0, What.REVOKED, "n2", identity=1)
    assert is_held(authority.check(accepted(story, 30.0, 1, identity=2).run()))
    assert authority.check(accepted(story, 30.0, 1, identity=1).run()).witnesses


def test_a_host_that_is_revoked_for_good_is_believed_under_no_identity() -> None:
    story = Story().tell(20.0, What.REVOKED, "n2")
    assert authority.check(accepted(story, 30.0, 1, identity=2).run()).witnesses


def test_what_a_revoked_peer_or_a_stranger_changes_is_found() -> None:
    run = Story().tell(20.0, What.CHANGED, "n1", sender="12D3Koo", changed="index").run()
    assert facts_of(run, authority.check(run)) == ["changed n1"]
    story = Story().tell(20.0, What.REVOKED, "n2", identity=1)
    run = story.tell(30.0, What.CHANGED, "n1", sender="n2", changed="index").run()
    assert facts_of(run, authority.check(run)) == ["revoked n2", "changed n1"]


def test_who_was_not_told_yet_may_believe_and_who_was_may_not() -> None:
    story = Story().tell(20.0, What.REVOKED, "n2", identity=1, at="n3")
    assert is_held(authority.check(accepted(story, 30.0, 1).run()))
    story.tell(40.0, What.REVOKED, "n2", identity=1, at="n1")
    run = accepted(story, 40.1 + PROPAGATION_S, 2).run()
    assert facts_of(run, authority.check(run)) == ["revoked n2", "accepted n1"]


def test_what_a_peer_changes_that_is_revoked_elsewhere_is_no_strangers() -> None:
    story = Story().tell(20.0, What.REVOKED, "n2", identity=1, at="n3")
    run = story.tell(30.0, What.CHANGED, "n1", sender="n2", changed="index").run()
    assert authority.check(run).status is Status.NOT_EXERCISED


def test_what_was_under_way_when_a_peer_was_revoked_may_still_arrive() -> None:
    story = Story().tell(20.0, What.REVOKED, "n2", identity=1)
    run = story.tell(20.5, What.CHANGED, "n1", sender="n2", changed="index").run()
    assert authority.check(run).status is Status.NOT_EXERCISED


def test_only_members_serve_and_take_in() -> None:
    cluster = Cluster(nodes=3, outside={"n3": ("b",)})
    run = served(Story(cluster=cluster), 20.0, "b", 0, 0, node="n3").run()
    assert facts_of(run, authority.check(run)) == ["served n3"]
    story = Story(cluster=cluster).invoke("r1", 20.0, ingress="n3", tenant="b").answer("r1", 20.1)
    run = story.run()
    assert facts_of(run, authority.check(run)) == ["invoke r1", "ok r1"]
    refused = Story(cluster=cluster).invoke("r1", 20.0, ingress="n3", tenant="b")
    refused.answer("r1", 20.1, (), end=What.FAIL, code="not_a_member", expected=True)
    assert not authority.check(refused.run()).witnesses


# -- MONOTONE


def test_numbers_that_rise_or_stay_are_as_promised() -> None:
    story = accepted(accepted(accepted(Story(), 20.0, 1), 21.0, 1), 22.0, 7)
    assert is_held(monotone.check(accepted(story, 23.0, 1, generation=6).run()))


@pytest.mark.parametrize("later", [{"seq": 3}, {"seq": 9, "generation": 4}])
def test_a_number_that_falls_is_found(later: dict[str, int]) -> None:
    run = accepted(accepted(Story(), 20.0, 4), 21.0, **later).run()  # type: ignore[arg-type]
    assert facts_of(run, monotone.check(run)) == ["accepted n1", "accepted n1"]


@pytest.mark.parametrize(
    "other",
    [{"observer": "n3"}, {"object": "record"}, {"stream": "ff"}, {"origin": "n3"}, {"identity": 2}],
)
def test_numbers_are_of_one_observer_origin_and_stream(other: dict[str, object]) -> None:
    run = accepted(accepted(Story(), 20.0, 4), 21.0, 1, **other).run()  # type: ignore[arg-type]
    assert is_held(monotone.check(run))


def test_an_observer_that_starts_again_begins_anew() -> None:
    story = accepted(Story(), 20.0, 4).tell(21.0, What.NODE_UP, "n1", generation=2, why="again")
    assert is_held(monotone.check(accepted(story, 22.0, 1).run()))
    other = accepted(Story(), 20.0, 4).tell(21.0, What.NODE_UP, "n3", generation=2, why="again")
    assert monotone.check(accepted(other, 22.0, 1).run()).witnesses


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 5)), min_size=2, max_size=12))
def test_exactly_the_histories_that_never_fall_are_held(numbers: list[tuple[int, int]]) -> None:
    story = Story()
    for place, (generation, seq) in enumerate(numbers):
        accepted(story, 20.0 + place, seq, generation=generation)
    rises = numbers == sorted(numbers)
    assert is_held(monotone.check(story.run())) == rises


def test_a_nonce_that_repeats_is_found_across_hosts_and_boots() -> None:
    story = Story().tell(20.0, What.SEALED, "n1", key="aa", counter=0)
    story.tell(21.0, What.SEALED, "n1", key="aa", counter=1)
    story.tell(22.0, What.SEALED, "n2", key="bb", counter=1)
    assert is_held(monotone.check(story.run()))
    story.tell(23.0, What.NODE_UP, "n1", generation=9, why="rolled back")
    run = story.tell(24.0, What.SEALED, "n1", key="aa", counter=1).run()
    found = monotone.check(run)
    assert facts_of(run, found) == ["sealed n1", "sealed n1"]
    assert found.witnesses[0].events == (1, 4)
