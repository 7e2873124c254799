"""The text of planned requests: a document, the same for every tenant, and a question.

Every prompt of a tenant carries that tenant's canary, which no other tenant's peer, log line or
error may ever show.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate

from chaos.entropy import stream_seed
from chaos.scenario.schedule import PlannedRequest

_COMMON = (
    "about after again because before could every first great house large light little make more "
    "never number other people place right small still their there these thing think three through "
    "time under water where which while world would year"
)
_WORDS = tuple(_COMMON.split())
"""Words that the toy tokenizer has whole, so that a word with its space is one token."""


_PART_WORDS = 32


def words(purpose: str, count: int) -> str:
    """``count`` words that follow from ``purpose``; fewer are the first ones of more."""
    return "".join([" " + _drawn(purpose, number) for number in range(count)])


def _drawn(purpose: str, number: int) -> str:
    return _WORDS[stream_seed(number, "word", purpose) % len(_WORDS)]


def canary(tenant: str) -> str:
    """A word that stands in every prompt of a tenant, and nowhere else."""
    return f"canary{stream_seed(0, 'canary', tenant):016x}"


def document(number: int, tokens: int) -> str:
    """A document of so many tokens of the toy tokenizer."""
    whole, rest = divmod(tokens, _PART_WORDS)
    parts = [_part(number, index)[-1] for index in range(whole)]
    if rest:
        parts.append(_part(number, whole)[rest - 1])
    return "".join(parts)


@lru_cache(maxsize=4096)
def _part(number: int, index: int) -> tuple[str, ...]:
    """A part of a document, by how many of its words: many requests quote it."""
    first = index * _PART_WORDS
    drawn = [_drawn(f"document {number}", place) for place in range(first, first + _PART_WORDS)]
    return tuple(accumulate(" " + word for word in drawn))


def prompt(request: PlannedRequest) -> str:
    """The content of a request's one user message."""
    question = words(f"question {request.question}", request.question_tokens)
    return document(request.document, request.document_tokens) + (
        f" {canary(request.tenant)} {question}?"
    )
