"""MONOTONE: accepted numbers of one origin never fall, and no (key, nonce) pair repeats."""

from __future__ import annotations

from chaos.history import What
from chaos.invariants.invariant import Finding, Id, Witness
from chaos.invariants.lives import Fact, facts
from chaos.invariants.tally import Tally
from chaos.run import Run

Place = tuple[str, str, int, str, str]
"""Observer, origin and which of its identities, object, stream."""


def check(run: Run) -> Finding:
    """Follows what each boot of each observer accepts of each origin, and every sealed frame."""
    tally = Tally(Id.MONOTONE, run)
    newest: dict[Place, Fact] = {}
    sealed: dict[tuple[str, int], Fact] = {}
    for fact in facts(run, What.NODE_UP, What.ACCEPTED, What.SEALED):
        event = fact.event
        if event.what is What.NODE_UP:
            # What it had accepted before was in its memory.
            newest = {place: each for place, each in newest.items() if place[0] != event.subject}
        elif event.what is What.ACCEPTED:
            place = _place(fact)
            witness = _fallen(newest.get(place), fact)
            if witness is None:
                newest[place] = fact
            nodes = (event.subject, str(event.data["origin"]))
            tally.compare(nodes, event.at_s, event.at_s, witness)
        else:
            pair = (str(event.data["key"]), int(event.data["counter"]))
            witness = _repeated(sealed.get(pair), fact)
            sealed.setdefault(pair, fact)
            tally.compare((event.subject,), event.at_s, event.at_s, witness)
    return tally.finding()


def _place(fact: Fact) -> Place:
    data = fact.event.data
    origin, kind, stream = str(data["origin"]), str(data["object"]), str(data.get("stream") or "")
    return fact.event.subject, origin, int(data.get("identity", 1)), kind, stream


def _numbers(fact: Fact) -> tuple[int, int]:
    return int(fact.event.data["generation"]), int(fact.event.data["seq"])


def _fallen(before: Fact | None, fact: Fact) -> Witness | None:
    if before is None or _numbers(fact) >= _numbers(before):
        return None
    was, now = ("{}/{}".format(*_numbers(each)) for each in (before, fact))
    what = f"{fact.event.data['object']} of {fact.event.data['origin']}"
    return Witness(
        expected=f"{fact.event.subject} had accepted {what} with generation/number {was}",
        found=f"it accepted {now} after it, from {fact.event.data['sender']}",
        events=(before.index, fact.index),
        node=fact.event.subject,
    )


def _repeated(before: Fact | None, fact: Fact) -> Witness | None:
    if before is None:
        return None
    return Witness(
        expected=f"nonce {fact.event.data['counter']} of a key was used by "
        f"{before.event.subject}, and never again",
        found=f"{fact.event.subject} sealed with both again",
        events=(before.index, fact.index),
        node=fact.event.subject,
    )
