"""Prompts: their tokens are the toy tokenizer's, however they are put together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chaos.modes.asked import prompt_ids, prompt_text
from chaos.scenario.prompts import document, words
from chaos.scenario.request import PlannedRequest
from inference import toy_language
from inference.request import ChatPrompt, Message

REQUEST = PlannedRequest(
    id="r1",
    at_s=0.0,
    ingress="n1",
    tenant="a",
    document=3,
    document_tokens=70,
    question=5,
    question_tokens=7,
    max_tokens=4,
)


@pytest.mark.parametrize("tokens", [0, 1, 31, 32, 33, 70])
def test_a_prompt_is_read_as_the_toy_tokenizer_reads_it(tokens: int) -> None:
    text = prompt_text(replace(REQUEST, document_tokens=tokens))
    chat = ChatPrompt(messages=(Message(role="user", content=text),))
    assert prompt_ids(text) == toy_language.encode(chat)


@pytest.mark.parametrize("tokens", [0, 1, 31, 32, 33, 70])
def test_a_shorter_document_is_the_beginning_of_the_longer_one(tokens: int) -> None:
    assert document(3, tokens) == words("document 3", tokens)
    assert document(3, 200).startswith(document(3, tokens))
