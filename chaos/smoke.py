"""``python -m chaos.smoke``: every simulated fault in each mode, some scenarios, all regressions.

A fault must be applied, take effect and be undone, and every promise must hold beside it. Exits 1
where one does not.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping

import click
import trio

from chaos.faults.catalogue import FAULTS, fault_of
from chaos.faults.fault import SIMULATED, Aim, Fault, Mode
from chaos.pool import Pool
from chaos.scenario.load import SHIPPED, find, load
from chaos.scenario.plan import plan
from chaos.scenario.scenario import Cluster, FaultEntry, Scenario, Workload
from chaos.scenario.schedule import Schedule
from chaos.stopwatch import Stopwatch
from chaos.tried import Tried
from chaos.verdict import Verdict
from chaos.worker import Job, Task

LIMIT_S = 60.0
AT_S = 2.0
FOR_S = 9.0

CALM = Scenario(
    name="smoke",
    warm_up_s=6.0,
    duration_s=14.0,
    settle_s=20.0,
    cluster=Cluster(nodes=3),
    workload=Workload(requests_per_s=5.0, documents=3, document_tokens=256),
)
"""Small, and busy enough for every fault to meet something."""

SURE: Mapping[str, Mapping[str, float]] = {
    "loss": {"fraction": 0.6},
    "duplicate": {"fraction": 0.6},
    "reorder": {"fraction": 0.6},
    "corrupt": {"fraction": 0.1},
    "memory_cap": {"cap_kbytes": 1},
    "cancel": {"after_ms": 50},
    "stream_cut": {"after_tokens": 1},
}
"""Quantities with which a fault is sure to take effect in so short a run."""

BESIDE: Mapping[str, str] = {"slow_close": "reset", "fd_exhausted": "reset"}
"""Faults that show only while connections end and are made anew, and what makes them do so."""

EVERYWHERE = ("slow_gpu",)
"""Faults that routers avoid, so that a single node may have nothing to do while it lasts."""

SCENARIOS = (
    "remote-engine-crash",
    "remote-event-gap",
    "remote-lying-reports",
    "remote-server-restart",
    "restored-issuer",
    "revocations",
    "revoked-in-partition",
)
"""Files that are run too: each takes a few seconds at most."""

FIVE_NODES = ("ring_majorities",)
"""On three nodes each sees all others, as two are a majority."""


def cases() -> Iterator[tuple[str, Schedule]]:
    """Every schedule of the smoke test, by name."""
    for mode in (Mode.CORE, Mode.NODE):
        for kind in FAULTS:
            if mode in kind.modes & SIMULATED:
                yield f"{mode.value}:{kind.kind}", case(kind, mode)
    for name in SCENARIOS:
        yield f"scenario:{name}", plan(load(find(name)))
    for path in sorted((SHIPPED / "regressions").glob("*.toml")):
        yield f"regression:{path.stem}", plan(load(path))


def case(kind: type[Fault], mode: Mode) -> Schedule:
    """One fault, by itself."""
    fault = fault_of(kind.kind, SURE.get(kind.kind, {}))
    nodes = 5 if kind.kind in FIVE_NODES else 3
    entries = [_entry(fault, AT_S)]
    if kind.kind in BESIDE:
        entries.append(_entry(fault_of(BESIDE[kind.kind], {}), AT_S + 1))
    made = Scenario(
        name=f"smoke-{kind.kind}",
        mode=mode,
        warm_up_s=CALM.warm_up_s,
        duration_s=CALM.duration_s,
        settle_s=CALM.settle_s,
        cluster=Cluster(nodes=nodes, remote=("n2",) if kind.needs_remote else ()),
        workload=CALM.workload,
        faults=tuple(entries),
    )
    return plan(made)


def _entry(fault: Fault, at_s: float) -> FaultEntry:
    target = "all" if fault.aim is Aim.LINKS or fault.kind in EVERYWHERE else "n2"
    return FaultEntry(fault=fault, at=at_s, for_s=None if fault.instant else FOR_S, target=target)


def complaint(tried: Tried) -> str | None:
    """What is wrong with a try; None where nothing is."""
    if tried.error:
        return tried.error
    if tried.verdict == Verdict.VIOLATED.word:
        return f"violated {', '.join(each.value for each in tried.violated)}"
    if tried.name.startswith("regression:"):
        return None
    if tried.verdict != Verdict.VALID.word:
        return f"{tried.verdict} {' '.join(tried.missing_marks)}"
    if tried.name.startswith("scenario:"):
        return None
    for fault in tried.faults:
        if fault.missed or fault.unsupported:
            return f"{fault.kind} was not applied: {fault.why}"
    first = tried.faults[0]
    if not first.effects:
        return f"{first.kind} had no effect"
    return None if all(fault.undone for fault in tried.faults) else "not undone"


@click.command()
@click.option("--jobs", type=click.IntRange(1, 64), default=2, show_default=True)
@click.argument("words", nargs=-1)
def main(jobs: int, words: tuple[str, ...]) -> None:
    """Run the smoke test, or of it what has one of WORDS in its name."""
    chosen = [
        (name, schedule)
        for name, schedule in cases()
        if not words or any(word in name for word in words)
    ]
    watch = Stopwatch()
    bad: list[str] = []
    deliveries, simulated_s = 0, 0.0

    def on_tried(tried: Tried) -> None:
        nonlocal deliveries, simulated_s
        deliveries, simulated_s = deliveries + tried.deliveries, simulated_s + tried.simulated_s
        wrong = complaint(tried)
        if wrong is not None:
            bad.append(tried.name)
            click.echo(f"{tried.name}: {wrong}")

    todo = iter([Job(name=name, schedule=schedule) for name, schedule in chosen])
    trio.run(Pool(task=Task(), count=jobs, limit_s=LIMIT_S).run, todo, on_tried)
    click.echo(
        f"chaos-smoke: {len(chosen) - len(bad)} of {len(chosen)} as promised, "
        f"{simulated_s:.0f} s simulated and {deliveries} deliveries in {watch.read_s():.0f} s"
    )
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
