"""The text of planned requests: a document, the same for every tenant, and a question.

Every prompt of a tenant carries that tenant's canary, which no other tenant's peer, log line or
error may ever show.
"""

from __future__ import annotations

from functools import lru_cache

from chaos.entropy import stream_seed
from chaos.scenario.schedule import PlannedRequest

_COMMON = (
    "about after again because before could every first great house large light little make more "
    "never number other people place right small still their there these thing think three through "
    "time under water where which while world would year"
)
_WORDS = tuple(_COMMON.split())
"""Words that the toy tokenizer has whole, so that a word with its space is one token."""


_DRAWN_AT_A_TIME = 32


def words(purpose: str, count: int) -> str:
    """``count`` words that follow from ``purpose``; fewer are the first ones of more."""
    whole, rest = divmod(count, _DRAWN_AT_A_TIME)
    parts = [" ".join(_drawn(purpose, part)) for part in range(whole)]
    if rest:
        parts.append(" ".join(_drawn(purpose, whole)[:rest]))
    return "".join(f" {part}" for part in parts)


@lru_cache(maxsize=8192)
def _drawn(purpose: str, part: int) -> tuple[str, ...]:
    numbers = range(part * _DRAWN_AT_A_TIME, (part + 1) * _DRAWN_AT_A_TIME)
    return tuple([_WORDS[stream_seed(number, "word", purpose) % len(_WORDS)] for number in numbers])


def canary(tenant: str) -> str:
    """A word that stands in every prompt of a tenant, and nowhere else."""
    return f"canary{stream_seed(0, 'canary', tenant):016x}"


def document(number: int, tokens: int) -> str:
    """A document of so many tokens of the toy tokenizer."""
    return words(f"document {number}", tokens)


def prompt(request: PlannedRequest) -> str:
    """The content of a request's one user message."""
    question = words(f"question {request.question}", request.question_tokens)
    return document(request.document, request.document_tokens) + (
        f" {canary(request.tenant)} {question}?"
    )
