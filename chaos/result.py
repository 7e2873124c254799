"""What a run leaves in its folder for other tools: ``result.json``, ``history.jsonl``, and more.

Schema 1 of ``result.json``::

    schema         1
    name, mode, seed, plant
    verdict        valid, violated or unknown; exit_code is that of `rhizome chaos run`
    missing_marks  expected marks that were not reached; marks are those that were
    findings       [{invariant, status, exercised, voided, share_of_bound, witnesses}]
    faults         [{id, kind, nodes, applied, effects, undone, missed, unsupported, why}]
    requests       {ok, failed, cancelled, unknown, open}
    totals         {simulated_s, wall_s, deliveries, trace}
    revision       {commit, sources, python, trio}
    notes          what the runner wants said

``history.jsonl`` has one event a line (``chaos/history.py``), ``schedule.toml`` is the run as a
timeline scenario, ``report.html`` shows it to a person (``chaos/report``), ``failure.json`` is
there where something was violated.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from chaos.failure import FILE, Failure, failure_of, violated, write_failure
from chaos.history import line
from chaos.outcome import fault_outcomes, request_outcomes
from chaos.revision import revision
from chaos.run import marks
from chaos.scenario.data import plain, scenario_toml, timeline
from chaos.scenario.scenario import Scenario
from chaos.verdict import Judged

SCHEMA = 1
RESULT = "result.json"
HISTORY = "history.jsonl"
TIMELINE = "schedule.toml"
REPORT = "report.html"


def result_data(judged: Judged) -> dict[str, Any]:  # JSON values
    """A judged run as ``result.json`` holds it."""
    run = judged.run
    return {
        "schema": SCHEMA,
        "name": run.schedule.name,
        "mode": run.schedule.mode.value,
        "seed": run.schedule.seed,
        "plant": run.plant,
        "verdict": judged.verdict.word,
        "exit_code": judged.verdict.value,
        "missing_marks": list(judged.missing_marks),
        "marks": sorted(marks(run)),
        "findings": plain(judged.findings),
        "faults": [
            {
                "id": each.planned.id,
                "kind": each.fault.kind,
                "nodes": list(each.planned.nodes),
                "applied": each.applied,
                "effects": each.effects,
                "undone": each.undone,
                "missed": each.missed,
                "unsupported": each.unsupported,
                "why": each.why,
            }
            for each in fault_outcomes(run)
        ],
        "requests": request_outcomes(run),
        "totals": plain(run.totals),
        "revision": plain(revision()),
        "notes": list(run.notes),
    }


def write_result(
    judged: Judged, directory: Path, *, scenario: Scenario | None = None
) -> Failure | None:
    """Writes a run's files into a folder; returns the failure where something was violated.

    A failure file that an earlier run has left there goes.
    """
    directory.mkdir(parents=True, exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(result_data(judged)), indent=1)
    (directory / RESULT).write_bytes(text + b"\n")
    (directory / HISTORY).write_bytes(b"".join(map(line, judged.run.events)))
    about = f"Schedule of {judged.run.schedule.name}, seed {judged.run.schedule.seed}."
    planned = timeline(judged.run.schedule, about=about)
    (directory / TIMELINE).write_text(scenario_toml(planned), encoding="utf-8")
    (directory / FILE).unlink(missing_ok=True)
    failure = None if violated(judged) is None else failure_of(judged, scenario=scenario)
    if failure is not None:
        write_failure(failure, directory / FILE)
    from chaos.report.page import write_report  # matplotlib, which only a written run needs

    write_report(judged, directory / REPORT)
    return failure
