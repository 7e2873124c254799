"""OUTPUT and ACCOUNT: what clients got, against what they were told and what a cold run says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.faults.worker import WrongModel
from chaos.history import What
from chaos.invariants import account, output
from chaos.invariants.invariant import Status
from inference import toy_language
from tests.chaos.invariants.histories import COLD, Story, facts_of, is_held, without_twin


def whole(**data: object) -> Story:
    return Story().phases().invoke("r1", 20.0).answer("r1", 20.1, **data)  # type: ignore[arg-type]


def test_the_answer_of_a_cold_run_is_what_is_promised() -> None:
    run = whole().run()
    assert is_held(output.check(run))
    assert is_held(account.check(run))


def test_a_beginning_is_as_promised_where_the_client_left() -> None:
    story = Story().phases().invoke("r1", 20.0)
    run = story.answer("r1", 20.1, COLD[:2], end=What.CANCELLED, by="client").run()
    assert is_held(output.check(run))
    assert is_held(account.check(run))


@pytest.mark.parametrize("end", [What.OK, What.CANCELLED, What.FAIL, What.INFO, None])
def test_a_wrong_token_is_found_however_the_answer_ended(end: What | None) -> None:
    story = Story().phases().invoke("r1", 20.0).answer("r1", 20.1, (11, 99, 13, 14), end=end)
    run = story.run()
    found = output.check(run)
    assert facts_of(run, found) == ["invoke r1", "tokens r1"]
    assert found.witnesses[0].expected == "token 1 of the cold run is 12"
    assert not any("tokens of the answer" in w.expected for w in account.check(run).witnesses)


@pytest.mark.parametrize("ids", [(11, 13, 14), (11, 12, 12, 13, 14), (11, 13, 12, 14), (11, 12)])
def test_lost_doubled_and_reordered_tokens_are_found_as_such(ids: tuple[int, ...]) -> None:
    run = whole(ids=ids).run()
    assert is_held(output.check(run))
    assert facts_of(run, account.check(run))[0] == "invoke r1"


@given(st.lists(st.integers(0, 5), max_size=6).map(tuple))
def test_every_other_answer_breaks_exactly_one_of_the_two(ids: tuple[int, ...]) -> None:
    story = Story().phases().invoke("r1", 20.0).answer("r1", 20.1, ids)
    story.tokens["r1"] = (1, 2, 3)
    run = story.run()
    violated = [f.status is Status.VIOLATED for f in (output.check(run), account.check(run))]
    assert violated.count(True) == (ids != (1, 2, 3))


def test_a_request_without_a_twin_is_not_exercised() -> None:
    found = output.check(without_twin(whole().run()))
    assert found.status is Status.NOT_EXERCISED


def test_two_ends_are_one_too_many() -> None:
    run = whole().tell(21.0, What.FAIL, "r1", code="late", message="").run()
    assert facts_of(run, account.check(run)) == ["ok r1", "fail r1"]


def test_a_token_after_the_end_is_found() -> None:
    story = Story().phases().invoke("r1", 20.0).answer("r1", 20.1, COLD[:3], end=What.CANCELLED)
    run = story.tell(21.0, What.TOKENS, "r1", ids=[14]).run()
    assert facts_of(run, account.check(run)) == ["cancelled r1", "tokens r1"]


def test_an_answer_to_nobody_is_found() -> None:
    run = Story().phases().answer("r9", 20.1).run()
    assert account.check(run).status is Status.VIOLATED


def test_the_same_request_twice_is_found() -> None:
    run = whole().invoke("r1", 30.0).run()
    assert facts_of(run, account.check(run)) == ["invoke r1", "invoke r1"]


def test_a_request_that_never_ends_is_found_when_the_run_stops() -> None:
    story = Story().phases().invoke("r1", 20.0).answer("r1", 20.1, COLD[:2], end=None)
    run = story.run()
    assert facts_of(run, account.check(run)) == ["invoke r1", "phase"]


def test_one_that_hangs_is_live_s_to_find() -> None:
    story = Story().phases().invoke("r1", 20.0)
    run = story.tell(111.0, What.STUCK, "r1", why="no end", for_s=35.0).run()
    assert account.check(run).status is Status.NOT_EXERCISED


def test_a_run_that_did_not_stop_says_nothing_of_open_requests() -> None:
    run = Story().phases(stopped=None).invoke("r1", 20.0).run()
    assert account.check(run).status is Status.NOT_EXERCISED


@pytest.mark.parametrize(
    "told",
    [
        {"completion_tokens": 5},
        {"completion_tokens": 3},
        {"cached_tokens": 101},
        {"cached_tokens": -1},
        {"prompt_tokens": 99},
    ],
)
def test_usage_that_is_not_so_is_found(told: dict[str, int]) -> None:
    run = whole(**told).run()
    found = account.check(run)
    assert facts_of(run, found)[-1] == "ok r1"
    assert len(found.witnesses[0].events) == 2


def test_a_prompt_of_unknown_length_is_not_compared() -> None:
    story = Story().phases().invoke("r1", 20.0, prompt_tokens=0).answer("r1", 20.1)
    assert is_held(account.check(story.run()))


def said(story: Story, *pieces: str, at_s: float = 20.0, whole: bool = True) -> Story:
    return story.tell(
        at_s + 2,
        What.SAID,
        "n2",
        request="r1",
        from_s=at_s,
        pieces=list(pieces),
        whole=whole,
        completion_tokens=len(pieces),
    )


def chunks(*texts: str, end: What = What.OK, tokens: int = 4) -> Story:
    """An answer of chunks at n2, without token ids; the cold run says COLD."""
    story = Story().phases().invoke("r1", 20.0)
    for number, text in enumerate(texts):
        at_s = 20.1 + number / 100
        story.tell(at_s, What.TOKENS, "r1", ids=[], text=text, piece=f"p{text}", blind=True)
    return story.answer("r1", 20.5, (), node="n2", end=end, completion_tokens=tokens)


TEXTS = tuple(toy_language.decode([token]) for token in COLD)


def test_chunks_are_compared_by_what_they_say() -> None:
    run = said(chunks(*TEXTS), *(f"p{text}" for text in TEXTS)).run()
    assert is_held(output.check(run))
    assert is_held(account.check(run))
    other = (*TEXTS[:3], "!")
    run = said(chunks(*other), *(f"p{text}" for text in other)).run()
    assert facts_of(run, output.check(run)) == ["invoke r1", "ok r1"]
    assert is_held(account.check(run))


@pytest.mark.parametrize("got", [TEXTS[:3], (*TEXTS, TEXTS[3]), (*TEXTS[:2], TEXTS[3], TEXTS[2])])
def test_chunks_that_went_astray_are_the_carriers_doing(got: tuple[str, ...]) -> None:
    run = said(chunks(*got), *(f"p{text}" for text in TEXTS)).run()
    assert is_held(output.check(run))
    assert "each piece once" in account.check(run).witnesses[0].expected


def test_tokens_of_chunks_are_as_many_as_the_engine_counts() -> None:
    run = said(chunks(*TEXTS, tokens=5), *(f"p{text}" for text in TEXTS)).run()
    assert "5 are told" in account.check(run).witnesses[0].found


def test_right_tokens_that_the_engine_left_out_are_its_own_doing() -> None:
    story = Story().phases().invoke("r1", 20.0).answer("r1", 20.1, COLD[:2])
    run = said(story, *map(str, COLD[:2])).run()
    assert is_held(account.check(run))
    assert output.check(run).status is Status.VIOLATED


@pytest.mark.parametrize(("ingress", "excused"), [("n2", True), ("n1", False)])
def test_another_model_is_excused_where_requests_enter_at_it(ingress: str, excused: bool) -> None:
    story = Story().fault(WrongModel(), "n2", mark="other_model_used").phases()
    story.invoke("r1", 22.0, ingress).answer("r1", 22.1, (11, 99, 13, 14), node="n2")
    run = story.run()
    assert (output.check(run).status is Status.VIOLATED) is not excused
