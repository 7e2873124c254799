"""``rhizome explain``."""

from __future__ import annotations

import click
import trio
from rich.console import Console
from rich.table import Table

from overlay.commands.options import (
    existing_home,
    home_option,
    json_option,
    print_json,
    tenant_option,
)
from overlay.control.client import call
from overlay.control.messages import CandidateReply, Explain, ExplainReply, RouteReply
from overlay.http.openai import request_id_of

COLUMNS = (
    "",
    "candidate",
    "matched",
    "counted",
    "queue",
    "round trip",
    "prefill",
    "decode",
    "total",
    "compared",
    "dtype",
    "weights",
)
"""``compared`` is the total and what the choice costs those who come after (policy ``cost``)."""

COLUMNS_MIN = 140
"""A narrower place (a pipe has 80) would cut names and numbers; long lines can be scrolled."""


@click.command("explain")
@click.argument("request_id", default="")
@tenant_option("Only of this tenant's requests.  [default: of all]")
@home_option
@json_option
def command(request_id: str, tenant: str, home: str | None, as_json: bool) -> None:  # noqa: FBT001 - click's
    """Show why a request went where it went, and what came true. Default: the last request.

    \b
    Example: rhizome explain 5f0c6a7d2e3b4c1d8e9fa0b1c2d3e4f5
    """  # noqa: D301 - click's mark
    wanted = Explain(request_id=request_id_of(request_id), tenant=tenant)
    reply = trio.run(call, existing_home(home), wanted, ExplainReply)
    if as_json:
        print_json(reply)
    else:
        show(reply)


BASES = {
    "text": "; compared with caches as text: the engine's tokenizer is not to be had here",
    "load alone": "; by load alone: it cannot be known here what caches hold of this prompt",
}
"""What is said of a decision that was not made by tokens."""


def show(explained: ExplainReply) -> None:
    """Prints an explanation for people."""
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, COLUMNS_MIN)
    console.print(f"request {explained.request_id}, {explained.age_s:.1f} s ago")
    for number, route in enumerate(explained.routes, start=1):
        console.print()
        console.print(heading(number, route), soft_wrap=True)
        console.print(table_of(route))
    console.print()
    outcome = explained.outcome
    if outcome is None:
        console.print("still running")
        return
    if outcome.completion_tokens is None:
        console.print(f"came true: {outcome.state}")
        return
    ttft = "-" if outcome.ttft_ms is None else f"{outcome.ttft_ms:.1f} ms"
    total = "-" if outcome.total_ms is None else f"{outcome.total_ms:.1f} ms"
    console.print(
        f"came true: {outcome.state}, {outcome.cached_tokens} of {outcome.prompt_tokens} prompt "
        f"tokens cached, first token after {ttft}, {outcome.completion_tokens} tokens in {total}, "
        f"attempts: {outcome.attempts}, resumes: {outcome.resumes}",
        soft_wrap=True,
    )


def heading(number: int, route: RouteReply) -> str:
    """What was decided, in one line."""
    return (
        f"decision {number} ({route.policy}): {route.chosen[-8:]}, {route.reason}; "
        f"{route.prompt_tokens} prompt tokens, "
        f"{route.expected_output_tokens:.0f} answer tokens expected{BASES.get(route.basis, '')}"
    )


def table_of(route: RouteReply) -> Table:
    """Each candidate's terms."""
    table = Table(box=None, pad_edge=False, show_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in {"", "candidate"} else "right")
    for candidate in route.candidates:
        mark = "->" if candidate.peer_id == route.chosen else ""
        table.add_row(mark, *cells(candidate))
    return table


def cells(candidate: CandidateReply) -> tuple[str, ...]:
    """One row of the table."""
    name = candidate.peer_id[-8:] + (" (here)" if candidate.here else "")
    if candidate.excluded is not None:
        return (f"{name}: {candidate.excluded}",)
    terms = (
        candidate.queue_ms,
        candidate.rtt_ms,
        candidate.prefill_ms,
        candidate.decode_ms,
        candidate.total_ms,
        candidate.score_ms,
    )
    matched = str(candidate.matched_tokens) + (" (estimated)" if candidate.estimated else "")
    tokens = matched, f"{candidate.counted_tokens:.0f}"
    answers_with = candidate.dtype or "-", candidate.variant or "-"
    return name, *tokens, *(f"{term:.1f} ms" for term in terms), *answers_with
