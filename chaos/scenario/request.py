"""One planned request, as a scenario may write it and as a schedule holds it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRequest:
    """One request. Its prompt is a function of these fields (``chaos/scenario/prompts.py``).

    ``tools``: it names a tool, so that only an engine that is given whole bodies can answer.
    ``stream``: such an engine is to answer piece by piece.
    """

    id: str
    at_s: float
    ingress: str
    tenant: str
    document: int
    document_tokens: int
    question: int
    question_tokens: int
    max_tokens: int
    timeout_s: float = 60.0
    cancel_after_s: float | None = None
    tools: bool = False
    stream: bool = False
