"""CLEAN: the harness leaves no process, socket, rule, namespace or file behind."""

from __future__ import annotations

from chaos.history import What
from chaos.invariants.invariant import Finding, Id, Witness
from chaos.invariants.lives import phase_at
from chaos.invariants.tally import Tally
from chaos.run import Run


def check(run: Run) -> Finding:
    """What was found when a live run had been looked over; nobody looks after a simulation."""
    tally = Tally(Id.CLEAN, run)
    stopped, looked = phase_at(run, "stopped"), phase_at(run, "looked")
    for index, event in enumerate(run.events):
        if event.what is What.LEFT:
            witness = Witness(
                expected="nothing is left of the run when it has stopped",
                found=f"a {event.data['kind']}: {event.subject}",
                events=(index,) if stopped is None else (stopped.index, index),
            )
            tally.compare((), event.at_s, event.at_s, witness)
    if looked is not None:
        tally.compare((), looked.at_s, looked.at_s, None)
    return tally.finding()
