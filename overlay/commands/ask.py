"""``rhizome ask``."""

from __future__ import annotations

import json
from typing import Any

import click
import trio

from overlay.client import PeerClient
from overlay.commands.options import (
    chosen_home,
    duration_of,
    home_option,
    json_option,
    read_stdin,
    tenant_option,
)
from overlay.request import Delta, Finished


@click.command("ask")
@click.argument("text")
@tenant_option("Tenant to ask as.  [default: the only one, or 'default']")
@click.option(
    "--model", default="", metavar="NAME", help="Model to ask.  [default: the one that is served]"
)
@click.option(
    "--max-tokens",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    metavar="NUMBER",
    help="Longest answer.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(0, 2),
    metavar="NUMBER",
    help="0 for the likeliest answer.  [default: the model's own]",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    metavar="NUMBER",
    help="Same seed, same answer.  [default: random]",
)
@click.option(
    "--timeout", default="10min", show_default=True, metavar="DURATION", help="Longest wait."
)
@home_option
@json_option
def command(
    text: str,
    tenant: str,
    model: str,
    max_tokens: int,
    temperature: float | None,
    seed: int | None,
    timeout: str,
    home: str | None,
    as_json: bool,  # noqa: FBT001 - click's
) -> None:
    """Ask the overlay; TEXT is the question, or - for standard input.

    \b
    Example: rhizome ask "What is a prefix cache?"
    """  # noqa: D301 - click's mark
    content = read_stdin() if text == "-" else text
    fields: dict[str, Any] = {"max_tokens": max_tokens, "model": model}
    fields |= {} if temperature is None else {"temperature": temperature}
    fields |= {} if seed is None else {"seed": seed}
    timeout_s = duration_of("--timeout", timeout)

    async def ask() -> None:
        async with PeerClient.connect(home=chosen_home(home), tenant=tenant) as client:
            messages = [{"role": "user", "content": content}]
            answer = client.chat(messages, timeout_s=timeout_s, **fields)
            pieces: list[str] = []
            try:
                async for event in answer:
                    if isinstance(event, Delta):
                        pieces.append(event.text)
                        if not as_json:
                            click.echo(event.text, nl=False)
                    elif isinstance(event, Finished):
                        finished = event
            finally:
                if pieces and not as_json:
                    click.echo()
            show_end(finished, str(answer.request_id), "".join(pieces), as_json=as_json)

    trio.run(ask)


def show_end(finished: Finished, request_id: str, text: str, *, as_json: bool) -> None:
    """Prints what the answer cost, or the whole of it as JSON."""
    usage = finished.usage
    if as_json:
        click.echo(
            json.dumps(
                {
                    "request_id": request_id,
                    "text": text,
                    "finish_reason": finished.reason.value,
                    "prompt_tokens": usage.prompt_tokens,
                    "cached_tokens": usage.cached_tokens,
                    "completion_tokens": usage.completion_tokens,
                    "served_by": finished.served_by,
                    "hops": finished.hops,
                    "resumes": finished.resumes,
                }
            )
        )
        return
    click.echo(
        f"# {usage.cached_tokens} of {usage.prompt_tokens} prompt tokens cached, "
        f"served by {finished.served_by[-8:]}, request {request_id}",
        err=True,
    )
