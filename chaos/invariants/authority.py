"""AUTHORITY: only admitted, unrevoked peers change anything, and only for their own tenants."""

from __future__ import annotations

from chaos.history import Event, What
from chaos.invariants.invariant import Finding, Id, Witness
from chaos.invariants.lives import Fact, facts, lives
from chaos.invariants.tally import Tally
from chaos.run import Run

PROPAGATION_S = 2.0
"""What was under way when a peer was revoked has arrived after this."""

TOLD_S = 15.0
"""After everything is healed a peer has met the others again, and was told what is revoked."""


class _Revocations:
    """Who is revoked, and which nodes know of it."""

    def __init__(self) -> None:
        self._everywhere: dict[str, Fact] = {}
        self._told: dict[tuple[str, str], Fact] = {}
        self.said: dict[tuple[str, str], dict[str, Fact]] = {}
        """By who is revoked and where that was first said: the nodes that know of it."""

    def add(self, fact: Fact) -> None:
        at = fact.event.data.get("at")
        if at is None:
            self._everywhere.setdefault(fact.event.subject, fact)
        else:
            who = fact.event.subject
            self._told.setdefault((str(at), who), fact)
            told = self.said.setdefault((who, str(fact.event.data.get("by"))), {})
            told.setdefault(str(at), fact)

    def known_at(self, node: str, name: str) -> Fact | None:
        """Since when a node knows that somebody is revoked; None where it does not."""
        return self._everywhere.get(name) or self._told.get((node, name))

    def is_revoked(self, name: str) -> bool:
        """Whether somebody is, for some node at least."""
        return name in self._everywhere or any(name == who for who, _ in self.said)

    @property
    def names(self) -> set[str]:
        """Everybody who is revoked."""
        return {*self._everywhere, *(who for who, _ in self.said)}


def check(run: Run) -> Finding:
    """Every accepted object is its origin's own, and no revoked peer or stranger changes a thing.

    Requests are served and taken in by members of their tenant only.
    """
    tally = Tally(Id.AUTHORITY, run)
    revoked = _Revocations()
    outside = run.schedule.cluster.outside
    for fact in facts(run, What.REVOKED, What.ACCEPTED, What.CHANGED, What.SERVED):
        event = fact.event
        witness: Witness | None = None
        if event.what is What.REVOKED:
            revoked.add(fact)
            continue
        if event.what is What.ACCEPTED:
            if event.data["genuine"] is None:
                continue
            witness = _accepted(fact, revoked)
        elif event.what is What.CHANGED:
            sender = str(event.data["sender"])
            since = revoked.known_at(event.subject, sender)
            unknown = since is None and revoked.is_revoked(sender)
            if unknown or (since is not None and not _is_over(since, event)):
                continue
            witness = _changed(fact, since)
        elif str(event.data["tenant"]) in outside.get(event.subject, ()):
            witness = _not_a_member(fact, event.subject, str(event.data["tenant"]))
        tally.compare((event.subject,), event.at_s, event.at_s, witness)
    _check_ingresses(run, tally)
    _check_told(run, revoked, tally)
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


def _check_told(run: Run, revoked: _Revocations, tally: Tally) -> None:
    """Who was cut off when a peer was revoked knows of it once everything is healed."""
    times = {str(fact.event.data["name"]): fact.at_s for fact in facts(run, What.PHASE)}
    until_s = times.get("healed", float("inf")) + TOLD_S
    if until_s > times.get("settled", 0.0):
        return
    up = {}
    for fact in facts(run, What.NODE_UP, What.NODE_DOWN):
        if fact.at_s < until_s:
            up[fact.event.subject] = fact.event.what is What.NODE_UP
    core = run.schedule.core or run.schedule.cluster.names
    for (name, by), told in sorted(revoked.said.items()):
        if by in revoked.names:
            continue  # nobody listened to it
        first = min(told.values(), key=_index)
        for node in (node for node in core if up.get(node) and node not in revoked.names):
            known = told.get(node)
            witness = Witness(
                expected=f"{node} is told by {until_s:.2f} s that {name} is revoked",
                found="it was not" if known is None else f"it was at {known.at_s:.2f} s",
                events=(first.index,),
                node=node,
            )
            is_late = known is None or known.at_s > until_s
            tally.compare((node,), until_s, until_s, witness if is_late else None)


def _index(fact: Fact) -> int:
    return fact.index


def _accepted(fact: Fact, revoked: _Revocations) -> Witness | None:
    data = fact.event.data
    since = revoked.known_at(fact.event.subject, str(data["origin"]))
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
