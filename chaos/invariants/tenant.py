"""TENANT: B never uses or reads A's blocks, digests, prompts or names, nor gets a hit by them."""

from __future__ import annotations

from chaos.history import What
from chaos.invariants.invariant import Finding, Id, Witness
from chaos.invariants.lives import Fact, facts
from chaos.invariants.tally import Tally
from chaos.run import Run


def check(run: Run) -> Finding:
    """Cached tokens of each served request against those its own tenant can have left; canaries.

    With one tenant there is nobody to keep apart, and nothing is exercised.
    """
    tally = Tally(Id.TENANT, run)
    several = len(run.schedule.cluster.tenants) > 1
    served: list[Fact] = []
    for fact in facts(run, What.LEAK, What.SERVED):
        event = fact.event
        if event.what is What.LEAK:
            tally.compare((event.subject,), event.at_s, event.at_s, _leak(fact, served))
        elif several:
            tally.compare((event.subject,), event.at_s, event.at_s, _foreign_hit(fact, served))
            served.append(fact)
    return tally.finding()


def _foreign_hit(fact: Fact, before: list[Fact]) -> Witness | None:
    data = fact.event.data
    if data["cached_tokens"] <= data["explained_tokens"]:
        return None
    return Witness(
        expected=f"at most {data['explained_tokens']} cached tokens, as tenant {data['tenant']} "
        f"left no more at {fact.event.subject}",
        found=f"{data['cached_tokens']} of {data['prompt_tokens']} prompt tokens were cached",
        events=(*_of_another(fact.event.subject, str(data["tenant"]), before), fact.index),
        node=fact.event.subject,
        request=str(data["request"]),
    )


def _leak(fact: Fact, served: list[Fact]) -> Witness:
    tenant = str(fact.event.data["tenant"])
    theirs = next((each.index for each in served if each.event.data["tenant"] == tenant), None)
    return Witness(
        expected=f"nothing of tenant {tenant} is seen at {fact.event.subject}",
        found=f"its canary in {fact.event.data['where']}",
        events=(fact.index,) if theirs is None else (theirs, fact.index),
        node=fact.event.subject,
    )


def _of_another(node: str, tenant: str, before: list[Fact]) -> tuple[int, ...]:
    """The last request of another tenant at that node: whose blocks these must have been."""
    for each in reversed(before):
        if each.event.subject == node and each.event.data["tenant"] != tenant:
            return (each.index,)
    return ()
