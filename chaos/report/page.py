"""A judged run as one HTML page that needs nothing else: no script, no font, no network.

The page forbids scripts by its own policy, as histories hold what strangers said.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from chaos.failure import FILE, events_before, violated
from chaos.faults.fault import Where
from chaos.history import Event
from chaos.invariants.catalogue import CHECKS
from chaos.invariants.invariant import Finding, Id, Status, Witness
from chaos.invariants.no_worse import allowed_s
from chaos.outcome import FaultOutcome, request_outcomes
from chaos.report import curves, gauges, lanes, requests, words
from chaos.report.facts import Asked, Band, Facts, facts_of
from chaos.report.svg import NARROW, WIDE
from chaos.revision import revision
from chaos.run import SEEN, marks
from chaos.scenario.scenario import Landmark
from chaos.verdict import Judged, Verdict

WITNESSES_SHOWN = 5
REQUESTS_SHOWN = 200
GAUGES_SHOWN = 6

TEMPLATES = Path(__file__).with_name("templates")

Row = dict[str, Any]
"""What a template shows of one thing: plain values."""


def write_report(judged: Judged, path: Path) -> Path:
    """Writes the page of a judged run; equal runs judged by the same code give equal bytes.

    Args:
        judged: The run and its findings.
        path: The file; its folder is made where it is missing.

    Returns:
        The path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(judged), encoding="utf-8", newline="\n")
    return path


def page(judged: Judged) -> str:
    """The page of a judged run."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["clean"] = words.clean
    facts = facts_of(judged.run)
    return environment.get_template("report.html").render(
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),  # noqa: S704 - ours
        head=_head(judged, facts),
        findings=[_finding(each) for each in judged.findings],
        broken=[_broken(judged, each) for each in judged.findings if each.witnesses],
        faults=[_fault(facts, n, each) for n, each in enumerate(facts.outcomes, 1)],
        figures=_figures(judged, facts),
        gauges=_gauges(facts),
        quantiles=curves.ttft_table(facts),
        outcomes=_outcomes(facts),
        ended=_ended(facts),
        marks=_marks(judged, facts),
        about=_about(judged),
        notes=judged.run.notes,
    )


def _head(judged: Judged, facts: Facts) -> Row:
    run = judged.run
    schedule = run.schedule
    symbol = {Verdict.VALID: "✓", Verdict.VIOLATED: "✕", Verdict.UNKNOWN: "?"}
    proves = schedule.proves
    nodes, lasted = words.count(schedule.cluster.nodes, "node"), words.seconds(facts.end_s)
    place = schedule.place.capitalize()
    return {
        "name": schedule.name,
        "symbol": symbol[judged.verdict],
        "verdict": judged.verdict.word,
        "exit_code": judged.verdict.value,
        "sentence": _sentence(judged),
        "plant": run.plant,
        "lines": [
            f"{place}, seed {schedule.seed}, {nodes}, {lasted} of its own time",
            f"{words.count(len(facts.requests), 'request')} sent: {_summary(judged)}",
            _faults_line(facts),
            *([f"The scenario is about {proves.value}: {_statement(proves)}"] if proves else []),
        ],
    }


def _summary(judged: Judged) -> str:
    found = request_outcomes(judged.run)
    return ", ".join(f"{number:,} {word}" for word, number in found.items() if number) or "none"


def _faults_line(facts: Facts) -> str:
    outcomes = facts.outcomes
    applied = sum(each.applied for each in outcomes)
    took = sum(each.effects > 0 for each in outcomes)
    return (
        f"{words.count(len(outcomes), 'fault')} scheduled, {applied} applied, {took} with effect, "
        f"{sum(each.undone for each in outcomes)} undone"
    )


def _sentence(judged: Judged) -> str:
    held = [each for each in judged.findings if each.status is Status.HELD]
    broken = [each.invariant.value for each in judged.findings if each.status is Status.VIOLATED]
    idle = [each.invariant.value for each in judged.findings if each.status is Status.NOT_EXERCISED]
    if judged.verdict is Verdict.VIOLATED:
        first = violated(judged)
        verb = "was" if len(broken) == 1 else "were"
        told = f"{words.listed(broken)} {verb} broken."
        if first and first.witnesses:
            witness = first.witnesses[0]
            told += f" Expected: {words.clean(witness.expected, 200)}. "
            told += f"Found: {words.clean(witness.found, 200)}."
        return told
    untested = f" Not put to the test: {words.listed(idle)}." if idle else ""
    if judged.verdict is Verdict.VALID:
        promises = words.count(len(held), "promise")
        return f"{promises} put to the test, and kept.{untested}"
    if judged.missing_marks:
        marks = words.listed(list(judged.missing_marks))
        return f"The run never reached what it was to show ({marks}), so it proves nothing."
    return "No promise was put to the test, so the run proves nothing."


def _statement(invariant: Id) -> str:
    return next((check.statement for check in CHECKS if check.id is invariant), "")


def _finding(finding: Finding) -> Row:
    symbols = {Status.HELD: "✓", Status.VIOLATED: "✕", Status.NOT_EXERCISED: words.NONE}
    bound = finding.share_of_bound
    return {
        "id": finding.invariant.value,
        "statement": _statement(finding.invariant),
        "symbol": symbols[finding.status],
        "status": finding.status.value,
        "exercised": f"{finding.exercised:,}",
        "voided": f"{finding.voided:,}",
        "share": words.share(bound),
        "meter": None if bound is None else f"{min(bound, 1.0) * 100:.4g}",
        "broken": bool(finding.witnesses),
    }


def _broken(judged: Judged, finding: Finding) -> Row:
    shown = finding.witnesses[:WITNESSES_SHOWN]
    first = violated(judged)
    return {
        "id": finding.invariant.value,
        "statement": _statement(finding.invariant),
        "witnesses": [_witness(judged.run.events, each) for each in shown],
        "more": len(finding.witnesses) - len(shown),
        "replay": f"rhizome chaos replay {FILE}" if finding is first else None,
    }


def _witness(events: tuple[Event, ...], witness: Witness) -> Row:
    named = [index for index in witness.events if 0 <= index < len(events)]
    before = events_before(events, witness)
    last = max(named) if named else len(events)
    return {
        "expected": witness.expected,
        "found": witness.found,
        "node": witness.node,
        "request": witness.request,
        "events": [_event(index, events[index]) for index in named],
        "before": [_event(last - len(before) + n, each) for n, each in enumerate(before)],
    }


def _event(index: int, event: Event) -> Row:
    return {
        "line": f"{index + 1:,}",
        "at": words.moment(event.at_s),
        "what": event.what.value,
        "subject": event.subject,
        "data": words.facts(event),
    }


def _fault(facts: Facts, number: int, outcome: FaultOutcome) -> Row:
    planned = outcome.planned
    band = facts.band_of(planned.id)
    return {
        "number": number,
        "id": planned.id,
        "kind": outcome.fault.kind,
        "family": outcome.fault.family.value,
        "settings": words.settings(outcome.fault.settings()),
        "target": _target(outcome),
        "planned": _planned(planned.at, planned.for_s),
        "applied": _applied(outcome, band),
        "effects": f"{outcome.effects:,}" if outcome.applied else words.NONE,
        "undone": _undone(outcome),
        "why": outcome.why,
        "voids": [
            f"{void.invariant.value} {'everywhere' if void.where is Where.ALL else 'there'}, "
            f"expecting {void.instead}"
            for void in outcome.fault.voids
        ],
    }


def _target(outcome: FaultOutcome) -> str:
    planned = outcome.planned
    if planned.groups:
        return " | ".join(" ".join(group) for group in planned.groups)
    if planned.links:
        return ", ".join(f"{source}>{target}" for source, target in planned.links)
    return ", ".join(planned.nodes)


def _planned(at: float | Landmark, for_s: float | None) -> str:
    when = f"storm + {at:g} s" if isinstance(at, int | float) else str(at)
    if for_s == 0:
        return f"{when}, at once"
    return f"{when}, until healing" if for_s is None else f"{when}, for {for_s:g} s"


def _applied(outcome: FaultOutcome, band: Band | None) -> str:
    if outcome.unsupported:
        return "no: unsupported"
    if outcome.missed or band is None:
        return "no: missed"
    if outcome.fault.instant:
        return f"at {band.from_s:.2f} s"
    return f"{band.from_s:.2f} to {band.to_s:.2f} s"


def _undone(outcome: FaultOutcome) -> str:
    if not outcome.applied:
        return words.NONE
    if outcome.fault.instant:
        return "nothing to undo"
    return "yes" if outcome.undone else "NO"


def _figures(judged: Judged, facts: Facts) -> Row:
    flags = lanes.flags_of(judged)
    bound_s = allowed_s(judged.run)
    return {
        "lanes": _pair(
            lanes.lanes(facts, flags, WIDE, "lanes"), lanes.lanes(facts, flags, NARROW, "lanes-n")
        ),
        "lanes_told": lanes.described(facts, flags),
        "counted": _pair(
            requests.counted(facts, WIDE, "counted"), requests.counted(facts, NARROW, "counted-n")
        ),
        "each": _markup(requests.each_one(facts, "each")),
        "long": requests.scrolls(facts),
        "bars_max": requests.BARS_MAX,
        "convergence": _pair(
            curves.convergence(facts, WIDE, "agreement"),
            curves.convergence(facts, NARROW, "agreement-n"),
        ),
        "convergence_told": curves.told_convergence(facts) if facts.agreement else "",
        "ttft": _pair(
            curves.ttft_over_time(facts, bound_s, WIDE, "ttft"),
            curves.ttft_over_time(facts, bound_s, NARROW, "ttft-n"),
        ),
        "ttft_told": curves.told_ttft(facts, bound_s) if curves.paired(facts) else "",
        "bound": bound_s is not None,
        "spread": _markup(curves.ttft_spread(facts, bound_s, "spread")),
    }


def _gauges(facts: Facts) -> Row:
    order = gauges.ranked(facts)
    plots = [
        {
            "name": each.name,
            "svg": _markup(gauges.plot(each, facts, f"gauge-{n}")),
            "told": gauges.told(each),
        }
        for n, each in enumerate(order)
        if not each.flat
    ]
    return {
        "first": plots[:GAUGES_SHOWN],
        "others": plots[GAUGES_SHOWN:],
        "flat": [each.name for each in order if each.flat],
        "rows": gauges.table(order),
    }


def _markup(svg: str | None) -> Markup | None:
    return None if svg is None else Markup(svg)  # noqa: S704 - matplotlib's, with text escaped


def _pair(wide: str | None, narrow: str | None) -> Mapping[str, Markup | None]:
    return {"wide": _markup(wide), "narrow": _markup(narrow)}


def _outcomes(facts: Facts) -> list[Row]:
    return [
        {
            "word": requests.LOOKS[look].word,
            "symbol": requests.LOOKS[look].symbol,
            "swatch": _markup(requests.swatch(look)),
            "count": f"{sum(each.look == look for each in facts.requests):,}",
        }
        for look in requests.present(facts)
    ]


def _ended(facts: Facts) -> Row:
    others = [each for each in facts.requests if each.outcome != "ok"]
    return {
        "rows": [_asked(each) for each in others[:REQUESTS_SHOWN]],
        "all": len(others),
        "more": max(0, len(others) - REQUESTS_SHOWN),
    }


def _asked(each: Asked) -> Row:
    return {
        "id": each.id,
        "symbol": requests.LOOKS[each.look].symbol,
        "outcome": each.outcome,
        "detail": each.detail,
        "path": f"{each.ingress} → {each.served_by or words.NONE}",
        "sent": words.moment(each.from_s),
        "took": words.seconds(each.to_s - each.from_s),
    }


def _marks(judged: Judged, facts: Facts) -> list[Row]:
    reached, expected = marks(judged.run), judged.run.schedule.expect.marks
    rows = []
    for name in dict.fromkeys([*expected, *sorted(reached)]):
        times, first_s = facts.marks.get(name, (0, 0.0))
        rows.append(
            {
                "name": name,
                "meaning": SEEN.get(name, ""),
                "reached": ("yes" if name in reached else "NO")
                + (f", {times:,} times" if times > 1 else ""),
                "first": words.moment(first_s) if times else words.NONE,
                "expected": "yes" if name in expected else "",
            }
        )
    return rows


def _about(judged: Judged) -> list[tuple[str, str]]:
    run, code = judged.run, revision()
    totals = run.totals
    return [
        ("run's own time", words.seconds(totals.simulated_s)),
        ("wall time", words.seconds(totals.wall_s)),
        ("deliveries", f"{totals.deliveries:,}"),
        ("events", f"{len(run.events):,} in history.jsonl"),
        ("trace", totals.trace or words.NONE),
        ("commit", code.commit),
        ("sources", code.sources),
        ("Python, trio", f"{code.python}, {code.trio}"),
        ("run it again", "rhizome chaos run schedule.toml"),
    ]
