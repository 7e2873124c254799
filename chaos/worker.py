"""A child process that tries schedules: ``python -m chaos.worker``.

The first line of its standard input is a :class:`Task`, each further one a :class:`Job`; for each
job one line with a :class:`Tried` comes back. It ends when its input does. An interrupt of the
terminal is its parent's to handle.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from chaos.examine import DEFAULT, Examine, examine_named
from chaos.faults.fault import Mode
from chaos.result import write_result
from chaos.scenario.data import plain, scenario_data
from chaos.scenario.load import scenario_of
from chaos.scenario.plan import plan
from chaos.scenario.reader import read
from chaos.scenario.scenario import Scenario
from chaos.scenario.schedule import Schedule
from chaos.tried import BROKEN, Tried, tried_of
from chaos.verdict import Verdict

ERROR_LINES_MAX = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What the jobs of a worker share. Failing runs are kept in folders below ``out``."""

    scenario: Scenario | None = None
    mode: Mode | None = None
    plant: str | None = None
    out: str | None = None
    examine: str = DEFAULT


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A seed of the task's scenario, or a schedule. ``name`` names its folder."""

    name: str
    seed: int | None = None
    schedule: Schedule | None = None


def task_line(task: Task) -> bytes:
    """A task as one line."""
    data = plain(task)
    data["scenario"] = scenario_data(task.scenario) if task.scenario else None
    return msgspec.json.encode(data) + b"\n"


def task_of(line: bytes) -> Task:
    """A task from its line."""
    data = msgspec.json.decode(line)
    scenario = data.pop("scenario")
    task = read(Task, data)
    made = scenario_of(scenario) if scenario else None
    return Task(scenario=made, mode=task.mode, plant=task.plant, out=task.out, examine=task.examine)


def line_of(value: Job | Tried) -> bytes:
    """A job or a try as one line."""
    return msgspec.json.encode(plain(value)) + b"\n"


def try_job(task: Task, job: Job, examine: Examine) -> Tried:
    """Tries one job; whatever goes wrong in the harness is a try without a verdict."""
    try:
        schedule = job.schedule
        if schedule is None:
            assert task.scenario is not None
            schedule = plan(task.scenario, job.seed, mode=task.mode)
        judged = examine(schedule, plant=task.plant)
        kept = ""
        if task.out is not None and judged.verdict is Verdict.VIOLATED:
            kept = str(Path(task.out) / job.name)
            write_result(judged, Path(kept), scenario=task.scenario)
        return tried_of(judged, job.name, kept=kept)
    except Exception:  # noqa: BLE001 - the parent reports it, and goes on with other jobs
        seed = job.schedule.seed if job.schedule else job.seed or 0
        lines = traceback.format_exc().splitlines()[-ERROR_LINES_MAX:]
        return Tried(name=job.name, seed=seed, verdict=BROKEN, error="\n".join(lines))


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Does jobs until there are no more."""
    task = task_of(source.readline())
    examine = examine_named(task.examine)
    for line in source:
        job = read(Job, msgspec.json.decode(line))
        sink.write(line_of(try_job(task, job, examine)))
        sink.flush()


def main() -> None:
    """Serves on the standard streams; whatever else is printed goes to standard error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with sink:
        serve(sys.stdin.buffer, sink)


if __name__ == "__main__":
    main()
