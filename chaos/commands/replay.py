"""``rhizome chaos replay``."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import click

from chaos.commands.options import failure_argument, json_option, print_json
from chaos.commands.phases import Phases
from chaos.commands.show import show
from chaos.commands.tables import console_of
from chaos.examine import examine
from chaos.failure import read_failure
from chaos.faults.fault import Mode
from chaos.replay import Replayed, replay
from chaos.result import result_data
from chaos.verdict import Verdict

LIVE_TIMES = 5


@click.command("replay")
@failure_argument
@click.option(
    "--times",
    type=click.IntRange(min=1),
    help=f"Runs, for a rate.  [default: {LIVE_TIMES} in live mode, else 1]",
)
@json_option
def command(path: Path, times: int | None, as_json: bool) -> int:  # noqa: FBT001 - click's
    """Run a failure again: is it the same run, and does it still fail?

    FAILURE is a failure.json or a folder with one. The trace is compared first: where it differs
    and the code does too, that is said; where the code is the same, the exit code is 3.

    \b
    Example: rhizome chaos replay chaos-out/swarm-17
    """  # noqa: D301 - click's mark
    failure = read_failure(path)
    live = failure.schedule.mode is Mode.LIVE
    console = console_of(err=as_json)
    console.print(
        f"[bold]{failure.schedule.name}[/]  {failure.schedule.place}, seed "
        f"{failure.schedule.seed}: {failure.invariant.value} was violated"
        + (f", planted {failure.plant}" if failure.plant else "")
    )
    phases = Phases(console)
    with phases if not as_json else nullcontext():
        replayed = replay(
            failure,
            examine,
            times=times or (LIVE_TIMES if live else 1),
            on_event=None if as_json else phases,
        )
    if as_json:
        print_json(
            {
                "invariant": failure.invariant.value,
                "same_trace": replayed.same_trace,
                "differs": replayed.differs,
                "times": replayed.times,
                "failed": replayed.failed,
                "result": result_data(replayed.judged),
            }
        )
    else:
        show(replayed.judged, console)
        console.print(_words(replayed, failure.invariant.value, live=live), markup=False)
    return Verdict.VIOLATED.value if replayed.failed else replayed.judged.verdict.value


def _words(replayed: Replayed, invariant: str, *, live: bool) -> str:
    """What replaying showed, in a sentence."""
    rate = f"{replayed.failed} of {replayed.times} runs violated {invariant}"
    if live:
        return f"{rate} (real processes: traces are not compared)"
    if replayed.same_trace:
        return f"same trace as then; {rate}"
    return f"another trace than then, as {replayed.differs}; {rate}"
