"""The demo's table, its small bar picture, and how to go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rich.console import Console
from rich.table import Table

from overlay.demo.record import Summary
from overlay.demo.run import FORWARD_FLAGS, FORWARD_WHY, POLICIES, DemoResult

OURS = POLICIES[0]
MEASURES: tuple[tuple[str, str, Callable[[Summary], float]], ...] = (
    ("hit rate", ".2f", lambda summary: -summary.hit_rate),
    ("TTFT p50 (ms)", ".0f", lambda summary: summary.ttft_ms_p50),
    ("TTFT p99 (ms)", ".0f", lambda summary: summary.ttft_ms_p99),
    ("median completion (ms)", ".0f", lambda summary: summary.completion_ms_p50),
    ("mean completion (ms)", ".0f", lambda summary: summary.completion_ms_mean),
    ("requests/s", ".2f", lambda summary: -summary.requests_per_s),
)
"""What policies are compared by: its name, how it is shown, and a figure of which less is better.
"""

BAR_CELLS = 40
CHECKS = {
    "outputs_equal_cold_run": "every answer equals a run with no cache, token by token",
    "no_cross_tenant_hit": "every cached token came from the same tenant's own requests",
    "all_requests_ended_once": "every request ended exactly once",
    "cleaned_up": "all processes and files are gone",
}


def show(result: DemoResult, console: Console) -> None:
    """Prints what came out."""
    console.print()
    console.print(table_of(result.summaries))
    for line in (*losses(result.summaries), *remarks(result)):
        console.print(line, highlight=False)
    console.print()
    for line in bars(result.summaries):
        console.print(line, highlight=False)
    console.print()
    for name, statement in CHECKS.items():
        verdict = result.checks.get(name)
        word = {True: "[green]yes[/]", False: "[red]NO[/]", None: "not looked up (--keep)"}[verdict]
        console.print(f"{statement}: {word}", highlight=False)


def table_of(summaries: Mapping[str, Summary]) -> Table:
    """One row a policy; times at the client."""
    table = Table(box=None, pad_edge=False, show_edge=False)
    peers = list(next(iter(summaries.values())).served) if summaries else []
    times = ("TTFT ms\np50", "\np99", "all ms\np50", "\nmean")
    columns = ("policy", "n", "hit\nrate", *times, "req/s", "hops")
    for name in (*columns, "served by\n" + " / ".join(peers)):
        table.add_column(name, justify="left" if name == "policy" else "right", no_wrap=True)
    for policy, summary in summaries.items():
        table.add_row(
            policy,
            str(summary.requests),
            f"{summary.hit_rate:.2f}",
            f"{summary.ttft_ms_p50:.0f}",
            f"{summary.ttft_ms_p99:.0f}",
            f"{summary.completion_ms_p50:.0f}",
            f"{summary.completion_ms_mean:.0f}",
            f"{summary.requests_per_s:.2f}",
            str(summary.forwarded),
            " / ".join(str(served) for served in summary.served.values()),
        )
    return table


def losses(summaries: Mapping[str, Summary]) -> list[str]:
    """In what the default policy was not the best one, and who was."""
    lines = []
    for what, unit, value in MEASURES:
        if OURS in summaries and len(summaries) > 1:
            best = min(summaries, key=lambda policy: value(summaries[policy]))
            ours, theirs = abs(value(summaries[OURS])), abs(value(summaries[best]))
            if f"{ours:{unit}}" != f"{theirs:{unit}}":
                lines.append(f"{OURS} was not the best in {what}: {ours:{unit}}")
                lines[-1] += f", and {best} {theirs:{unit}}"
    return lines


def remarks(result: DemoResult) -> list[str]:
    """What a reader of the figures has to know."""
    lines = [f"peers ran with {' '.join(FORWARD_FLAGS)}: {FORWARD_WHY}"]
    took = f"all of it took {result.took_s:.0f} s"
    if result.skipped:
        took += f"; left out, as time was short: {', '.join(result.skipped)}"
    return [*lines, took]


def bars(summaries: Mapping[str, Summary]) -> list[str]:
    """Hit rates and median first tokens as bars."""
    lines = ["prompt tokens found cached"]
    for policy, summary in summaries.items():
        filled = round(BAR_CELLS * summary.hit_rate)
        bar = "█" * filled + "·" * (BAR_CELLS - filled)
        lines.append(f"  {policy:<15}{bar} {100 * summary.hit_rate:.0f} %")
    lines.append("median time to first token")
    longest = max((summary.ttft_ms_p50 for summary in summaries.values()), default=1.0) or 1.0
    for policy, summary in summaries.items():
        filled = max(1, round(BAR_CELLS * summary.ttft_ms_p50 / longest))
        bar = "█" * filled + "·" * (BAR_CELLS - filled)
        lines.append(f"  {policy:<15}{bar} {summary.ttft_ms_p50:.0f} ms")
    return lines
