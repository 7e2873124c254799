"""What checkers make of a live run's history, which knows less than a simulation's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chaos.faults.fault import Mode
from chaos.history import What
from chaos.invariants import authority, monotone, no_worse
from chaos.invariants.invariant import Status
from tests.chaos.invariants.histories import Story, is_held
from tests.chaos.invariants.test_service import asked


def accepted(story: Story, seq: int) -> Story:
    return story.tell(
        20.0 + seq,
        What.ACCEPTED,
        "n1",
        origin="n2",
        identity=1,
        object="head",
        generation=1,
        seq=seq,
        stream=None,
        sender="a peer",
        genuine=None,
    )


def test_what_nobody_can_know_to_be_genuine_is_no_proof_either_way() -> None:
    run = accepted(Story(), 1).run()
    assert authority.check(run).status is Status.NOT_EXERCISED
    assert is_held(monotone.check(run))


@pytest.mark.parametrize("ttft_s", [1.69, 1.71])
def test_one_silence_is_allowed_where_nobody_tells_of_attempts(ttft_s: float) -> None:
    run = asked(ttft_s).run()
    live = replace(run, schedule=replace(run.schedule, mode=Mode.LIVE))
    assert no_worse.check(run).witnesses
    assert bool(no_worse.check(live).witnesses) == (ttft_s > 1.7)
