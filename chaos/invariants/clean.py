"""CLEAN: the harness leaves no process, socket, rule, namespace or file behind."""

from __future__ import annotations

from chaos.history import What
from chaos.invariants.invariant import Finding, Id, Witness
from chaos.invariants.lives import facts, phase_at
from chaos.invariants.tally import Tally
from chaos.run import Run


def check(run: Run) -> Finding:
    """What was found when a live run had been looked over; nobody looks after a simulation."""
    tally = Tally(Id.CLEAN, run)
    stopped, looked = phase_at(run, "stopped"), phase_at(run, "looked")
    for fact in facts(run, What.LEFT):
        witness = Witness(
            expected="nothing is left of the run when it has stopped",
            found=f"a {fact.event.data['kind']}: {fact.event.subject}",
            events=(fact.index,) if stopped is None else (stopped.index, fact.index),
        )
        tally.compare((), fact.at_s, fact.at_s, witness)
    if looked is not None:
        tally.compare((), looked.at_s, looked.at_s, None)
    return tally.finding()
