"""OUTPUT: the tokens of a request equal those of a cold, cache-off, single-node run of it."""

from __future__ import annotations

from chaos.invariants.alignment import Difference, difference, first_difference
from chaos.invariants.invariant import Finding, Id, Witness
from chaos.invariants.lives import Life, lives
from chaos.invariants.tally import Tally
from chaos.run import Run
from inference import toy_language


def check(run: Run) -> Finding:
    """Compares what each client got, whole or not, with the cold run of the same request."""
    tally = Tally(Id.OUTPUT, run)
    for life in lives(run).values():
        cold = run.twin.tokens.get(life.request)
        if cold is None or not (life.tokens or life.completed):
            continue
        witness = None if life.blind else _witness(life, cold)
        if witness is None and life.text is not None:
            witness = _witness_of_text(life, life.text, cold)
        tally.compare(life.nodes, life.from_s, life.to_s, witness, ingress=life.ingress)
    return tally.finding()


def _witness_of_text(life: Life, got: str, cold: tuple[int, ...]) -> Witness | None:
    """Of an answer of chunks. What was carried wrongly is no wrong answer: see ACCOUNT."""
    whole = toy_language.decode(cold)
    if life.is_carried is False or got == (whole if life.completed else whole[: len(got)]):
        return None
    place = first_difference(got.encode(), whole.encode())
    return Witness(
        expected=f"the text of the cold run, {len(whole)} characters",
        found=f"the client got {len(got)} characters, which differ from byte {place} on",
        events=tuple(fact.index for fact in (*life.invokes[:1], *life.ends[:1])),
        node=str(life.started[-1].event.data["node"]) if life.started else life.ingress,
        request=life.request,
    )


def _witness(life: Life, cold: tuple[int, ...]) -> Witness | None:
    got = life.ids
    found = difference(got, cold, complete=life.completed)
    if found is Difference.NONE or (found is Difference.MISPLACED and not life.is_carried):
        return None
    place = first_difference(got, cold)
    wrong = place
    for fact in life.tokens:
        if wrong < len(fact.event.data["ids"]):
            break
        wrong -= len(fact.event.data["ids"])
    else:
        fact = life.ends[0]
    return Witness(
        expected=f"token {place} of the cold run is {_token(cold, place)}",
        found=f"the client got {_token(got, place)}",
        events=(*(each.index for each in life.invokes[:1]), fact.index),
        node=str(life.started[-1].event.data["node"]) if life.started else life.ingress,
        request=life.request,
    )


def _token(tokens: tuple[int, ...], place: int) -> str:
    return str(tokens[place]) if place < len(tokens) else "none, the answer has ended"
