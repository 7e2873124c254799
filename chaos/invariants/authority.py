"""AUTHORITY: only admitted, unrevoked peers change anything, and only for their own tenants."""

from __future__ import annotations

from chaos.history import Event, What
from chaos.invariants.invariant import Finding, Id, Witness
from chaos.invariants.lives import Fact, facts, lives
from chaos.invariants.tally import Tally
from chaos.run import Run

PROPAGATION_S = 2.0
"""What was under way when a peer was revoked has arrived after this."""


def check(run: Run) -> Finding:
    """Every accepted object is its origin's own, and no revoked peer or stranger changes a thing.

    Requests are served and taken in by members of their tenant only.
    """
    tally = Tally(Id.AUTHORITY, run)
    revoked: dict[str, Fact] = {}
    outside = run.schedule.cluster.outside
    for fact in facts(run, What.REVOKED, What.ACCEPTED, What.CHANGED, What.SERVED):
        event = fact.event
        witness: Witness | None = None
        if event.what is What.REVOKED:
            revoked.setdefault(event.subject, fact)
            continue
        if event.what is What.ACCEPTED:
            if event.data["genuine"] is None:
                continue
            witness = _accepted(fact, revoked)
        elif event.what is What.CHANGED:
            since = revoked.get(str(event.data["sender"]))
            if since is not None and not _is_over(since, event):
                continue
            witness = _changed(fact, since)
        elif str(event.data["tenant"]) in outside.get(event.subject, ()):
            witness = _not_a_member(fact, event.subject, str(event.data["tenant"]))
        tally.compare((event.subject,), event.at_s, event.at_s, witness)
    _check_ingresses(run, tally)
    return tally.finding()


def _check_ingresses(run: Run, tally: Tally) -> None:
    outside = run.schedule.cluster.outside
    for life in lives(run).values():
        if not life.invokes or not life.completed or life.end is None:
            continue
        tenant = str(life.invokes[0].event.data["tenant"])
        if tenant in outside.get(life.ingress, ()):
            witness = Witness(
                expected=f"{life.ingress} takes nothing in for {tenant}: it is no member",
                found="the request was answered",
                events=(life.invokes[0].index, life.end.index),
                node=life.ingress,
                request=life.request,
            )
            tally.compare((life.ingress,), life.from_s, life.to_s, witness)


def _accepted(fact: Fact, revoked: dict[str, Fact]) -> Witness | None:
    data = fact.event.data
    since = revoked.get(str(data["origin"]))
    if since is not None and since.event.data.get("identity") not in {None, data.get("identity")}:
        since = None
    if not data["genuine"]:
        return Witness(
            expected=f"{data['origin']} signed no such {data['object']}, so that none believes it",
            found=_acceptance(fact),
            events=(fact.index,),
            node=fact.event.subject,
        )
    if since is not None and _is_over(since, fact.event):
        return Witness(
            expected=f"{data['origin']} was revoked at {since.at_s:.2f} s",
            found=_acceptance(fact),
            events=(since.index, fact.index),
            node=fact.event.subject,
        )
    return None


def _acceptance(fact: Fact) -> str:
    data = fact.event.data
    what = f"{data['object']} {data['generation']}/{data['seq']} of {data['origin']}"
    return f"{fact.event.subject} accepted {what} from {data['sender']}"


def _changed(fact: Fact, since: Fact | None) -> Witness:
    sender = fact.event.data["sender"]
    why = "is a stranger" if since is None else f"was revoked at {since.at_s:.2f} s"
    return Witness(
        expected=f"nothing changes by a message of {sender}, which {why}",
        found=f"{fact.event.subject} changed: {fact.event.data.get('changed', 'its state')}",
        events=(fact.index,) if since is None else (since.index, fact.index),
        node=fact.event.subject,
    )


def _not_a_member(fact: Fact, node: str, tenant: str) -> Witness:
    return Witness(
        expected=f"{node} serves nothing for {tenant}: it is no member",
        found="it served a request",
        events=(fact.index,),
        node=node,
        request=str(fact.event.data["request"]),
    )


def _is_over(since: Fact, event: Event) -> bool:
    return event.at_s > since.at_s + PROPAGATION_S
