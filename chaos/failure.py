"""A failure that can be held: one JSON file from which the run can be had again.

Schema 1 of ``failure.json``::

    schema     1
    invariant  id of the invariant that was violated
    witness    {expected, found, node, request, events (indices into history.jsonl)}
    before     the five events before the last one of the witness, as in history.jsonl
    seed       of the schedule
    plant      name of the planted bug, or null
    trace      digest of the ordered trace of the run
    revision   {commit, sources, python, trio}
    minimal    whether shrinking ended because nothing more could be left out
    schedule   everything that the run does (chaos/scenario/data.py)
    scenario   the scenario that the schedule was drawn from, as the tables of its file, or null
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from chaos.errors import ScenarioError
from chaos.history import Event, line
from chaos.invariants.invariant import Finding, Id, Status, Witness
from chaos.revision import Revision, revision
from chaos.scenario.data import plain, scenario_data, schedule_from
from chaos.scenario.load import scenario_of
from chaos.scenario.reader import read
from chaos.scenario.scenario import Scenario
from chaos.scenario.schedule import Schedule
from chaos.verdict import Judged

SCHEMA = 1
BEFORE = 5
FILE = "failure.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One violated invariant of one run, with all that it takes to run it again."""

    schedule: Schedule
    invariant: Id
    witness: Witness
    trace: str
    revision: Revision
    plant: str | None = None
    before: tuple[Mapping[str, Any], ...] = ()  # events as plain JSON values
    minimal: bool = False
    scenario: Scenario | None = None


def violated(judged: Judged, invariant: Id | None = None) -> Finding | None:
    """The first violated finding, or that of an invariant; None where it held."""
    for finding in judged.findings:
        if finding.status is Status.VIOLATED and invariant in {None, finding.invariant}:
            return finding
    return None


def failure_of(
    judged: Judged,
    *,
    invariant: Id | None = None,
    scenario: Scenario | None = None,
    minimal: bool = False,
) -> Failure:
    """The failure of a run that violated something (that invariant, where one is named).

    Raises:
        ScenarioError: Where it did not.
    """
    finding = violated(judged, invariant)
    if finding is None:
        raise ScenarioError("nothing was violated in this run")
    run = judged.run
    witness = finding.witnesses[0]
    return Failure(
        schedule=run.schedule,
        invariant=finding.invariant,
        witness=witness,
        trace=run.totals.trace,
        revision=revision(),
        plant=run.plant,
        before=tuple(msgspec.json.decode(line(e)) for e in events_before(run.events, witness)),
        minimal=minimal,
        scenario=scenario,
    )


def events_before(events: tuple[Event, ...], witness: Witness) -> tuple[Event, ...]:
    """The five events before the last one that a witness names, or the last five of the run."""
    end = max(witness.events) if witness.events else len(events)
    return events[max(0, end - BEFORE) : end]


def failure_data(failure: Failure) -> dict[str, Any]:  # JSON values
    """A failure as its file holds it."""
    data = {"schema": SCHEMA, "seed": failure.schedule.seed, **plain(failure)}
    data["scenario"] = scenario_data(failure.scenario) if failure.scenario else None
    return data


def write_failure(failure: Failure, path: Path) -> Path:
    """Writes a failure file, and its folder where that is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(failure_data(failure)), indent=1)
    path.write_bytes(text + b"\n")
    return path


def failure_from(data: object, source: str = "failure") -> Failure:
    """A failure from JSON values. Raises ``ScenarioError``."""
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise ScenarioError(f"{source}: is no failure file of schema {SCHEMA}")
    try:
        return Failure(
            schedule=schedule_from(data["schedule"]),
            invariant=Id(data["invariant"]),
            witness=read(Witness, data["witness"]),
            trace=str(data["trace"]),
            revision=read(Revision, data["revision"]),
            plant=data["plant"],
            before=tuple(data["before"]),
            minimal=bool(data["minimal"]),
            scenario=scenario_of(data["scenario"]) if data["scenario"] else None,
        )
    except ScenarioError as error:
        raise ScenarioError(f"{source}: {error}") from None
    except (KeyError, ValueError, TypeError) as error:
        raise ScenarioError(f"{source}: is not a whole failure file: {error!r}") from None


def read_failure(path: Path) -> Failure:
    """Reads a failure file, or the one in a folder. Raises ``ScenarioError``."""
    path = path / FILE if path.is_dir() else path
    try:
        data = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise ScenarioError(f"{path}: cannot be read: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise ScenarioError(f"{path}: is not JSON: {error}") from None
    return failure_from(data, str(path))
