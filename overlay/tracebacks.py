"""Failures as lines, without what foreign exceptions say.

An exception of a library, or one of ours that nobody expected, may quote what it stumbled over: a
prompt, a token, a tenant's name. So its kind and the places it came through are told, and its
message is not. Told are those of causes that never hold content: the system's and the peers'.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator

from overlay.errors import PeerFault, Unavailable
from security.errors import SecurityError

TOLD = (PeerFault, Unavailable, SecurityError, OSError)
DEPTH_MAX = 16
"""Causes and groups inside each other that are followed."""

MEMBERS_MAX = 16
"""Members of a group that are told."""

HEADING = "Traceback (most recent call last):"


def failure_lines(error: BaseException) -> list[str]:
    """What is told of a failure, its causes and the members of its groups."""
    return list(_lines(error, 0))


def _lines(error: BaseException, depth: int) -> Iterator[str]:
    if depth >= DEPTH_MAX:
        yield "..."
        return
    before = error.__cause__
    if before is None and not error.__suppress_context__:
        before = error.__context__
    if before is not None:
        yield from _lines(before, depth + 1)
        yield "and then:"
    yield HEADING
    for frame in traceback.extract_tb(error.__traceback__):
        yield f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}'
        if frame.line:
            yield f"    {frame.line}"
    yield f"{_name(error)}: {error}" if isinstance(error, TOLD) else _name(error)
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions[:MEMBERS_MAX]:
            yield from (f"  | {line}" for line in _lines(inner, depth + 1))


def _name(error: BaseException) -> str:
    kind = type(error)
    place = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return place + kind.__qualname__
