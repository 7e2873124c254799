"""OUTPUT: the tokens of a request equal those of a cold, cache-off, single-node run of it."""

from __future__ import annotations

from chaos.invariants.alignment import Difference, difference, first_difference
from chaos.invariants.invariant import Finding, Id, Witness
from chaos.invariants.lives import Life, lives
from chaos.invariants.tally import Tally
from chaos.run import Run


def check(run: Run) -> Finding:
    """Compares what each client got, whole or not, with the cold run of the same request."""
    tally = Tally(Id.OUTPUT, run)
    for life in lives(run).values():
        cold = run.twin.tokens.get(life.request)
        if cold is None or not (life.tokens or life.completed):
            continue
        tally.compare(life.nodes, life.from_s, life.to_s, _witness(life, cold))
    return tally.finding()


def _witness(life: Life, cold: tuple[int, ...]) -> Witness | None:
    got = life.ids
    if difference(got, cold, complete=life.completed) is not Difference.WRONG:
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
