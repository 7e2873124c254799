"""Many seeds of one scenario, tried in child processes: what failed, and what was covered.

A folder of a sweep holds ``sweep.json`` (:class:`Swept` as plain data), ``tries.jsonl`` (one
:class:`chaos.tried.Tried` a line), ``corpus/`` (a schedule for each try that showed a state that
no earlier one had, to be tried again first by later sweeps), and for each run that violated
something a folder with its ``failure.json``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from chaos.coverage import Coverage
from chaos.errors import ScenarioError
from chaos.examine import DEFAULT
from chaos.faults.fault import Mode
from chaos.pool import Pool
from chaos.revision import revision
from chaos.scenario import systematic
from chaos.scenario.data import plain, schedule_from_json, schedule_json
from chaos.scenario.plan import plan
from chaos.scenario.scenario import Scenario
from chaos.scenario.schedule import Schedule
from chaos.stopwatch import Stopwatch
from chaos.tried import BROKEN, Tried
from chaos.verdict import Verdict
from chaos.worker import Job, Task, line_of

SCHEMA = 1
SWEEP = "sweep.json"
TRIES = "tries.jsonl"
CORPUS = "corpus"
LIMIT_S = 300.0
TWICE_EVERY = 20
"""One try in so many is run a second time in a fresh process: 5 %."""

EXIT_NOT_DETERMINISTIC = 3
EXIT_BROKEN = 70


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a sweep does.

    Attributes:
        scenario: Where schedules are drawn from.
        seeds: Which ones; the last may not be reached where ``for_s`` is given.
        schedules: Tried before the seeds, by name: a corpus, or what a caller has made.
        for_s: No new seed is begun after so many seconds of wall time.
        twice_every: One in so many is run a second time in a fresh process; 0 for none.
        out: Folder for results; None leaves nothing.
    """

    scenario: Scenario
    seeds: range
    jobs: int = 2
    mode: Mode | None = None
    plant: str | None = None
    schedules: tuple[tuple[str, Schedule], ...] = ()
    for_s: float | None = None
    limit_s: float = LIMIT_S
    twice_every: int = TWICE_EVERY
    out: Path | None = None
    examine: str = DEFAULT


@dataclass(slots=True)
class Swept:
    """What a sweep showed so far. ``planned`` is how many tries it would make at most."""

    planned: int
    coverage: Coverage = field(default_factory=Coverage)
    failed: list[Tried] = field(default_factory=list)
    wall_s: float = 0.0
    whole: bool = False

    @property
    def exit_code(self) -> int:
        """As of ``rhizome chaos run``: the worst of all tries, and 2 where none was valid."""
        if self.coverage.not_deterministic:
            return EXIT_NOT_DETERMINISTIC
        if any(tried.verdict == Verdict.VIOLATED.word for tried in self.failed):
            return Verdict.VIOLATED.value
        if any(tried.verdict == BROKEN for tried in self.failed):
            return EXIT_BROKEN
        valid = self.coverage.verdicts[Verdict.VALID.word]
        return Verdict.VALID.value if valid else Verdict.UNKNOWN.value

    @property
    def rate(self) -> float:
        """Tries a second."""
        return self.coverage.tries / self.wall_s if self.wall_s else 0.0

    @property
    def deliveries_per_s(self) -> float:
        return self.coverage.deliveries / self.wall_s if self.wall_s else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds that the rest takes at this rate."""
        left = self.planned - self.coverage.tries
        return left / self.rate if self.rate else None

    def data(self, sweep: Plan) -> dict[str, Any]:  # JSON values
        """As ``sweep.json`` holds it."""
        return {
            "schema": SCHEMA,
            "name": sweep.scenario.name,
            "mode": (sweep.mode or sweep.scenario.mode).value,
            "seeds": [sweep.seeds.start, sweep.seeds.stop],
            "plant": sweep.plant,
            "whole": self.whole,
            "exit_code": self.exit_code,
            "wall_s": round(self.wall_s, 3),
            "jobs": sweep.jobs,
            "deliveries_per_s": round(self.deliveries_per_s, 1),
            "coverage": self.coverage.data(),
            "failed": [
                {
                    "name": tried.name,
                    "seed": tried.seed,
                    "verdict": tried.verdict,
                    "violated": [each.value for each in tried.violated],
                    "deterministic": tried.deterministic,
                    "kept": tried.kept,
                    "error": tried.error,
                }
                for tried in self.failed
            ],
            "revision": plain(revision()),
        }


OnProgress = Callable[[Swept, Tried], None]


def seeds_of(text: str, scenario: Scenario) -> range:
    """Seeds of ``0:500`` (the last one out), ``7``, or ``all`` of an enumeration.

    Raises:
        ScenarioError: For anything else.
    """
    total = systematic.count(scenario)
    if text == "all" and total:
        return range(total)
    first, colon, last = text.partition(":")
    try:
        start, stop = int(first), int(last) if colon else int(first) + 1
    except ValueError:
        start, stop = 0, 0
    if not 0 <= start < stop:
        also = ", or all" if total else ""
        raise ScenarioError(f"seeds are written 0:500 (500 is out), or 7{also}; not {text!r}")
    if total and stop > total:
        raise ScenarioError(f"{scenario.name} has {total} schedules: seeds end at {total}")
    return range(start, stop)


def corpus_of(folder: Path) -> tuple[tuple[str, Schedule], ...]:
    """Schedules that an earlier sweep kept. Raises ``ScenarioError``."""
    found = sorted(folder.glob("*.json"))
    if not found:
        raise ScenarioError(f"{folder}: holds no schedule of a corpus (*.json)")
    return tuple((path.stem, schedule_from_json(path.read_bytes())) for path in found)


async def sweep(what: Plan, on_progress: OnProgress | None = None) -> Swept:
    """Tries everything; also when it is cancelled, its folder says what was done until then."""
    swept = Swept(planned=len(what.seeds) + len(what.schedules))
    kept = _Kept(what)
    watch = Stopwatch()

    def on_tried(tried: Tried) -> None:
        swept.wall_s = watch.read_s()
        new = swept.coverage.add(tried)
        if tried.failed:
            swept.failed.append(tried)
        kept.add(tried, new)
        if on_progress is not None:
            on_progress(swept, tried)

    twice = _twice(what.twice_every)
    pool = Pool(
        task=Task(
            scenario=what.scenario,
            mode=what.mode,
            plant=what.plant,
            out=None if what.out is None else str(what.out),
            examine=what.examine,
        ),
        count=min(what.jobs, swept.planned),
        limit_s=what.limit_s,
        twice=twice,
    )
    try:
        await pool.run(_jobs(what, watch), on_tried)
        swept.whole = True
    finally:
        swept.wall_s = watch.read_s()
        kept.finish(swept)
    return swept


def _twice(every: int) -> Callable[[Job], bool]:
    """The first of every so many jobs."""
    numbers: dict[str, int] = {}

    def chosen(job: Job) -> bool:
        number = numbers.setdefault(job.name, len(numbers))
        return every > 0 and number % every == 0

    return chosen


def _jobs(what: Plan, watch: Stopwatch) -> Iterator[Job]:
    for name, schedule in what.schedules:
        yield Job(name=name, schedule=schedule)
    for seed in what.seeds:
        if what.for_s is not None and watch.read_s() >= what.for_s:
            return
        yield Job(name=f"seed-{seed}", seed=seed)


class _Kept:
    """The folder of a sweep."""

    def __init__(self, what: Plan) -> None:
        self._what = what
        self._given = dict(what.schedules)
        if what.out is not None:
            (what.out / CORPUS).mkdir(parents=True, exist_ok=True)
            (what.out / TRIES).write_bytes(b"")

    def add(self, tried: Tried, new: Iterable[str]) -> None:
        out = self._what.out
        if out is None:
            return
        with (out / TRIES).open("ab") as file:
            file.write(line_of(tried))
        if any(new) and tried.verdict != BROKEN:
            schedule = self._given.get(tried.name)
            if schedule is None:
                schedule = plan(self._what.scenario, tried.seed, mode=self._what.mode)
            (out / CORPUS / f"{tried.name}.json").write_bytes(schedule_json(schedule))

    def finish(self, swept: Swept) -> None:
        if self._what.out is not None:
            text = msgspec.json.format(msgspec.json.encode(swept.data(self._what)), indent=1)
            (self._what.out / SWEEP).write_bytes(text + b"\n")
