"""Pieces of answers: by what they are known again at the client, and what a chunk says.

An engine says an answer in pieces, and each reaches the client once, in order and as it is. So the
pieces that a client got are those of the engine that answered; where an answer went on elsewhere,
a beginning of what each engine said, and all that the last one said.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Said:
    """What one engine said to one request; ``whole`` where it came to its end."""

    pieces: tuple[str, ...]
    whole: bool


def piece_of(ids: Sequence[int] | None, text: str, chunk: bytes | None) -> str:
    """The name of a piece; empty where it says nothing."""
    if chunk:
        return hashlib.blake2b(chunk, digest_size=8).hexdigest()
    return ",".join(map(str, ids)) if ids else text


def text_of_chunk(chunk: bytes) -> str:
    """What a chunk, or a whole answer, says: text, or the arguments of a tool's call."""
    choice = json.loads(chunk)["choices"][0]
    said = choice.get("delta") or choice.get("message") or {}
    calls = said.get("tool_calls") or ()
    return said.get("content") or "".join(call["function"]["arguments"] for call in calls)


def is_carried(got: Sequence[str], said: Sequence[Said], *, complete: bool) -> bool:
    """Whether a client got what engines said: none lost, doubled or out of order.

    Args:
        got: The pieces that the client got, in their order.
        said: What each engine said, in the order in which they began.
        complete: Whether the answer was said to be whole; else a beginning of it is enough.
    """
    got = tuple(got)
    reached = {0}
    for each in said:
        longest: set[int] = set()
        for start in reached:
            same = _common(got[start:], each.pieces)
            if complete and each.whole and same == len(each.pieces) == len(got) - start:
                return True
            longest.update(range(start, start + same + 1))
        reached = longest
    return not complete and len(got) in reached


def _common(some: Sequence[str], others: Sequence[str]) -> int:
    """How many pieces are the same, from the first on."""
    count = 0
    while count < min(len(some), len(others)) and some[count] == others[count]:
        count += 1
    return count
