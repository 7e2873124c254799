"""What the demo asks: two tenants, the same documents, four questions on each, in seeded order."""

from __future__ import annotations

import random
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

ANSWER_TOKENS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A text and questions about it."""

    title: str
    text: str
    questions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One request of the workload; ``ingress`` is the index of the peer that is asked."""

    number: int
    tenant: str
    document: int
    ingress: int
    messages: tuple[dict[str, str], ...]

    @property
    def fields(self) -> dict[str, Any]:
        """The rest of the completion body: greedy, so that every run can be compared."""
        return {"max_tokens": ANSWER_TOKENS, "temperature": 0, "seed": 0}


def documents() -> tuple[Document, ...]:
    """The demo's own texts."""
    raw = tomllib.loads(files("overlay.demo").joinpath("documents.toml").read_text("utf-8"))
    return tuple(
        Document(
            title=each["title"],
            text=" ".join(each["text"].split()),
            questions=tuple(each["questions"]),
        )
        for each in raw["document"]
    )


def workload(seed: int, tenants: tuple[str, ...], peers: int) -> tuple[Question, ...]:
    """Every question once per tenant, shuffled; the ingress is drawn apart from the document."""
    draw = random.Random(seed)
    texts = documents()
    pairs = [
        (tenant, number, question)
        for tenant in tenants
        for number, document in enumerate(texts)
        for question in document.questions
    ]
    draw.shuffle(pairs)
    return tuple(
        Question(
            number=index,
            tenant=tenant,
            document=number,
            ingress=draw.randrange(peers),
            messages=(
                {"role": "system", "content": f"Answer from this text.\n{texts[number].text}"},
                {"role": "user", "content": question},
            ),
        )
        for index, (tenant, number, question) in enumerate(pairs)
    )
