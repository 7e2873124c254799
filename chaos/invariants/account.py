"""ACCOUNT: each request ends exactly once, and no token is lost, doubled or reordered."""

from __future__ import annotations

from collections.abc import Iterator

from chaos.history import What
from chaos.invariants.alignment import Difference, difference, first_difference
from chaos.invariants.invariant import Finding, Id, Witness
from chaos.invariants.lives import Fact, Life, facts, lives, phase_at
from chaos.invariants.tally import Tally
from chaos.run import Run


def check(run: Run) -> Finding:
    """Follows each request through the automaton invoke, tokens, one end; and counts its tokens."""
    tally = Tally(Id.ACCOUNT, run)
    stopped = phase_at(run, "stopped")
    stuck = {fact.event.subject for fact in facts(run, What.STUCK)}
    for life in lives(run).values():
        witness = next(_contradictions(run, life), None)
        if witness is None and not life.ends:
            # One that hangs is LIVE's, and is told of as stuck.
            if stopped is None or life.request in stuck or life.ingress in stuck:
                continue
            witness = _witness(life, "an end by the time that the run stopped", "none", stopped)
        tally.compare(life.nodes, life.from_s, life.to_s, witness, ingress=life.ingress)
    return tally.finding()


def _contradictions(run: Run, life: Life) -> Iterator[Witness]:
    if not life.invokes:
        yield _witness(life, "nothing of a request that nobody sent", "an answer", _last(life))
        return
    if len(life.invokes) > 1:
        yield _witness(life, "one request of a name", "it was sent again", life.invokes[1])
    if len(life.ends) > 1:
        first, second = (each.event.what.value for each in life.ends[:2])
        yield _witness(
            life, f"nothing after its end ({first})", f"it ended again ({second})", *life.ends[:2]
        )
    if life.end is not None:
        yield from _late(life, life.end)
    yield from _usage(life)
    yield from _carried(run, life)


def _late(life: Life, end: Fact) -> Iterator[Witness]:
    late = next((fact for fact in life.tokens if fact.index > end.index), None)
    if late is not None:
        yield _witness(life, "no token after its end", "more tokens", end, late)


def _usage(life: Life) -> Iterator[Witness]:
    if life.end is None or not life.completed:
        return
    told, got = life.end.event.data, _tokens(life)
    asked = int(life.invokes[0].event.data.get("prompt_tokens", 0))
    if got is not None and told["completion_tokens"] != got:
        yield _witness(
            life,
            f"a completion of the {got} tokens that the client got",
            f"{told['completion_tokens']} are told",
            *life.tokens[-1:],
            life.end,
        )
    if not 0 <= told["cached_tokens"] <= told["prompt_tokens"]:
        yield _witness(
            life,
            f"at most {told['prompt_tokens']} tokens from a cache, all of the prompt",
            f"{told['cached_tokens']} are told",
            life.invokes[0],
            life.end,
        )
    if asked and told["prompt_tokens"] != asked:
        yield _witness(
            life,
            f"a prompt of {asked} tokens",
            f"{told['prompt_tokens']} are told",
            life.invokes[0],
            life.end,
        )


def _tokens(life: Life) -> int | None:
    """How many tokens the client got; of a blind answer, as the engine counts; None: not known."""
    if not life.blind:
        return len(life.ids)
    counted = [f.event.data["completion_tokens"] for f in life.said if f.event.data["whole"]]
    return counted[0] if len(counted) == 1 else None


def _carried(run: Run, life: Life) -> Iterator[Witness]:
    if life.is_carried is not None:
        if not life.is_carried:
            yield _witness(
                life,
                "what the engines said, each piece once and in order",
                f"{len(life.tokens)} pieces came, and they are other ones",
                life.invokes[0],
                _last(life),
            )
        return
    cold = run.twin.tokens.get(life.request)
    if cold is None or not (life.tokens or life.completed):
        return
    got = life.ids
    if difference(got, cold, complete=life.completed) is Difference.MISPLACED:
        place = first_difference(got, cold)
        yield _witness(
            life,
            f"the tokens of the answer, each once and in order, {cold[place : place + 4]} next "
            f"after {place}",
            f"{got[place : place + 4]} came next, {len(got)} of {len(cold)} in all",
            life.invokes[0],
            _last(life),
        )


def _last(life: Life) -> Fact:
    return [*life.routed, *life.started, *life.tokens, *life.ends][-1]


def _witness(life: Life, expected: str, found: str, *facts: Fact) -> Witness:
    given = (*life.invokes[:1], *facts) if len(facts) == 1 else facts
    return Witness(
        expected=expected,
        found=found,
        events=tuple(fact.index for fact in given),
        node=life.ingress,
        request=life.request,
    )
