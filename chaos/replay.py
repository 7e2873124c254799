"""A failure, run again: is it the same run, and does it still fail?"""

from __future__ import annotations

from dataclasses import dataclass, field

from chaos.errors import NotDeterministic
from chaos.examine import Examine
from chaos.failure import Failure, violated
from chaos.faults.fault import Mode
from chaos.modes.registry import OnEvent
from chaos.revision import revision
from chaos.verdict import Judged


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What replays showed.

    Attributes:
        judged: The last run.
        same_trace: It did exactly what the failure's run did.
        differs: What is not as it was then (code, Python, trio), in words.
        times: How many runs were made, ``failed`` how many violated the failure's invariant.
    """

    judged: Judged
    same_trace: bool
    differs: str | None
    times: int
    failed: int = field(default=0)


def replay(
    failure: Failure, examine: Examine, *, times: int = 1, on_event: OnEvent | None = None
) -> Replayed:
    """Runs a failure's schedule again; the trace is compared before anything is judged.

    Real processes are never exactly repeatable: in live mode the trace is not compared, and
    ``times`` runs give a rate.

    Raises:
        NotDeterministic: Where the same code made another run of the same schedule.
    """
    differs = failure.revision.differs(revision())
    failed = 0
    for _ in range(times):
        judged = examine(failure.schedule, plant=failure.plant, on_event=on_event)
        same = judged.run.totals.trace == failure.trace
        if not same and differs is None and failure.schedule.mode is not Mode.LIVE:
            raise NotDeterministic(
                f"the trace is {judged.run.totals.trace}, and was {failure.trace} with the same "
                "code, schedule and seed: the harness is not deterministic"
            )
        failed += violated(judged, failure.invariant) is not None
    return Replayed(judged=judged, same_trace=same, differs=differs, times=times, failed=failed)
