"""Prompts become tokens by the model's template and tokenizer, or are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from inference.detokenizer import TextStream
from inference.errors import InvalidRequest, ModelMissing
from inference.request import ChatPrompt, Message, Prompt, TextPrompt
from inference.tokenizer import PromptTokenizer


@pytest.fixture
def tokenizer(tiny_folder: Path) -> PromptTokenizer:
    return PromptTokenizer(tiny_folder, context_tokens=100)


def chat(*messages: tuple[str, str]) -> ChatPrompt:
    return ChatPrompt(messages=tuple(Message(role=r, content=c) for r, c in messages))


def test_messages_go_through_the_chat_template(tokenizer: PromptTokenizer) -> None:
    ids = tokenizer.tokenize(chat(("system", "be brief"), ("user", "hi")))
    text = tokenizer._backend.decode(list(ids), skip_special_tokens=False)
    assert text == "<s>system:be brief</s><s>user:hi</s><s>assistant:"


def test_developer_is_the_system_role_of_older_templates(tokenizer: PromptTokenizer) -> None:
    assert tokenizer.tokenize(chat(("developer", "x"))) == tokenizer.tokenize(chat(("system", "x")))


def test_text_is_tokenised_as_it_stands(tokenizer: PromptTokenizer) -> None:
    assert tokenizer.decode(tokenizer.tokenize(TextPrompt(text="hé, 世界"))) == "hé, 世界"


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        (TextPrompt(text=""), "prompt"),
        (TextPrompt(text="x" * 100_000), "prompt"),
        (ChatPrompt(messages=()), "messages"),
    ],
)
def test_empty_and_oversized_prompts_are_refused(
    tokenizer: PromptTokenizer, prompt: Prompt, param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        tokenizer.tokenize(prompt)
    assert caught.value.param == param


def test_template_that_refuses_is_the_callers_error(tokenizer: PromptTokenizer) -> None:
    tokenizer._tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(InvalidRequest, match="roles must alternate"):
        tokenizer.tokenize(chat(("user", "hi")))


def test_model_without_template_takes_text_only(tokenizer: PromptTokenizer) -> None:
    tokenizer._template = None
    with pytest.raises(InvalidRequest, match="/v1/completions"):
        tokenizer.tokenize(chat(("user", "hi")))


def test_streamed_text_never_splits_a_character(tokenizer: PromptTokenizer) -> None:
    text = "naïve 🌿 東京"
    stream = TextStream(tokenizer.decode)
    pieces = [stream.push([token]) for token in tokenizer.tokenize(TextPrompt(text=text))]
    assert "".join(pieces) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_digests_tell_tokenizers_and_templates_apart(
    tokenizer: PromptTokenizer, tiny_folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_folder, other)
    assert PromptTokenizer(other, context_tokens=9).digest == tokenizer.digest
    assert PromptTokenizer(other, context_tokens=9).template_digest == tokenizer.template_digest
    (other / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    changed = PromptTokenizer(other, context_tokens=9)
    assert changed.template_digest != tokenizer.template_digest
    assert changed.digest == tokenizer.digest
    content = json.loads((other / "tokenizer.json").read_text())
    content["model"]["vocab"]["extra"] = 258
    (other / "tokenizer.json").write_text(json.dumps(content))
    assert PromptTokenizer(other, context_tokens=9).digest != tokenizer.digest


def test_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing):
        PromptTokenizer(tmp_path, context_tokens=9)
