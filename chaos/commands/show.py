"""A judged run in a terminal: verdict, what contradicts what, faults, invariants."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chaos.commands.tables import table_of
from chaos.commands.words import aimed, event_words, when
from chaos.failure import events_before, violated
from chaos.faults.fault import Mode, Network
from chaos.invariants.invariant import Finding, Status
from chaos.outcome import FaultOutcome, fault_outcomes, request_outcomes
from chaos.run import Run
from chaos.verdict import Judged, Verdict

WITNESSES_MAX = 3
FACTS_MAX = 6
NOTES_MAX = 10
COLOURS = {Verdict.VALID: "green", Verdict.VIOLATED: "red", Verdict.UNKNOWN: "yellow"}
STATUS_COLOURS = {
    Status.HELD: "green",
    Status.VIOLATED: "bold red",
    Status.NOT_EXERCISED: "dim",
}


def show(judged: Judged, console: Console, *, failure: Path | None = None) -> None:
    """Prints everything; ``failure`` is where the failure file is, if there is one."""
    run = judged.run
    if run.schedule.faults:
        console.print(faults_table(run))
        console.print(_faults_line(run))
        console.print()
    console.print(findings_table(judged))
    console.print()
    console.print(_size(run))
    for note in run.notes[:NOTES_MAX]:
        console.print(f"note: {note}", markup=False)
    for finding in judged.findings:
        if finding.status is Status.VIOLATED:
            show_violation(judged, finding, console)
    show_verdict(judged, console, failure=failure)


def show_verdict(judged: Judged, console: Console, *, failure: Path | None = None) -> None:
    """The verdict, why it is that, and how to go on."""
    colour = COLOURS[judged.verdict]
    console.print(f"\n[bold {colour}]{judged.verdict.word}[/]{escape(_why(judged))}")
    if failure is not None:
        console.print(f"replay it: rhizome chaos replay {failure}", soft_wrap=True, markup=False)
        console.print(f"shrink it: rhizome chaos shrink {failure}", soft_wrap=True, markup=False)


def _why(judged: Judged) -> str:
    if judged.verdict is Verdict.VIOLATED:
        broken = [f.invariant.value for f in judged.findings if f.status is Status.VIOLATED]
        return f": {', '.join(broken)}"
    if judged.missing_marks:
        return f": these marks were not reached: {', '.join(judged.missing_marks)}"
    return ": nothing was put to the test" if judged.verdict is Verdict.UNKNOWN else ""


def show_violation(judged: Judged, finding: Finding, console: Console) -> None:
    """What was promised and what was found, the facts that say so, and what came before."""
    events = judged.run.events
    count = len(finding.witnesses)
    console.print(
        f"\n[bold red]{finding.invariant.value} violated[/]"
        + (f", {count} times; here are the first {WITNESSES_MAX}" if count > WITNESSES_MAX else "")
    )
    for witness in finding.witnesses[:WITNESSES_MAX]:
        where = [f"node {witness.node}"] if witness.node else []
        where += [f"request {witness.request}"] if witness.request else []
        console.print(f"  {', '.join(where)}" if where else "", markup=False, end="\n")
        console.print(f"  expected  {witness.expected}", markup=False)
        console.print(f"  found     {witness.found}", markup=False)
        for index in witness.events[:FACTS_MAX]:
            console.print(f"  fact      {event_words(events[index])}", markup=False, soft_wrap=True)
    first = violated(judged, finding.invariant)
    assert first is not None
    console.print("  the five events before")
    for event in events_before(events, first.witnesses[0]):
        console.print(f"            {event_words(event)}", markup=False, soft_wrap=True)


def findings_table(judged: Judged) -> Table:
    """One row an invariant."""
    columns = ("invariant", "status", "compared", "voided", "of its bound")
    table = table_of(*columns, numbers=(2, 3, 4))
    for finding in judged.findings:
        share = finding.share_of_bound
        table.add_row(
            finding.invariant.value,
            f"[{STATUS_COLOURS[finding.status]}]{finding.status.value}[/]",
            str(finding.exercised),
            str(finding.voided),
            "" if share is None else f"{share:.0%}",
        )
    return table


def faults_table(run: Run) -> Table:
    """One row a fault: scheduled, applied, had effect, undone."""
    columns = ("fault", "at", "scheduled", "applied", "effects", "undone", "")
    table = table_of(*columns, numbers=(4,))
    for each in fault_outcomes(run):
        table.add_row(
            escape(each.planned.id),
            aimed(each.planned, run.schedule.cluster.names),
            when(each.planned),
            _yes(each.applied),
            str(each.effects),
            _undone(each),
            escape(_remark(each)),
        )
    return table


def _yes(value: bool) -> str:  # noqa: FBT001 - a fact in a table
    return "yes" if value else "[yellow]no[/]"


def _undone(each: FaultOutcome) -> str:
    if each.applied and not each.undone:
        return "[red]NO[/]"
    return "done at once" if each.fault.instant and each.applied else _yes(each.undone)


def _remark(each: FaultOutcome) -> str:
    if each.unsupported:
        return f"unsupported: {each.why}"
    if each.missed:
        return f"missed: {each.why}"
    return "no effect" if each.applied and not each.effects else ""


def _faults_line(run: Run) -> str:
    outcomes = fault_outcomes(run)
    unsupported = sum(each.unsupported for each in outcomes)
    missed = sum(each.missed for each in outcomes)
    return (
        f"faults: {len(outcomes)} scheduled, {sum(each.applied for each in outcomes)} applied, "
        f"{sum(each.effects > 0 for each in outcomes)} had effect, "
        f"{sum(each.undone for each in outcomes)} undone"
        + (f", {missed} missed" if missed else "")
        + (f", [yellow]{unsupported} unsupported[/]" if unsupported else "")
    )


def _size(run: Run) -> str:
    totals = run.totals
    counts = Counter(request_outcomes(run))
    requests = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    speed = totals.simulated_s / totals.wall_s if totals.wall_s else 0.0
    rate = totals.deliveries / totals.wall_s if totals.wall_s else 0.0
    if run.schedule.mode is Mode.LIVE:
        on_bytes = run.schedule.cluster.network is Network.LOOPBACK
        what = "chunks relayed" if on_bytes else "packets switched"
        return (
            f"requests: {requests or 'none'}\n"
            f"{totals.wall_s:.1f} s of real time, {totals.deliveries} {what} ({rate:.0f}/s)"
        )
    return (
        f"requests: {requests or 'none'}\n"
        f"{totals.simulated_s:.1f} s simulated in {totals.wall_s:.1f} s ({speed:.0f} times real "
        f"time), {totals.deliveries} deliveries ({rate:.0f}/s)\ntrace {totals.trace}"
    )
