"""Text to token ids and back, by the model's own tokenizer and chat template.

Encoding and decoding go to the tokenizer's backend directly, whose calls change nothing: the event
loop tokenises a prompt while the engine's thread decodes an answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from transformers import AutoTokenizer

from inference.errors import InvalidRequest, ModelMissing, UnsupportedModel
from inference.request import BodyPrompt, ChatPrompt, Message, Prompt, TextPrompt

TEMPLATE_FLAGS = ("add_generation_prompt", "continue_final_message")
TEMPLATE_LISTS = ("tools", "documents")
_RESERVED = {
    *("conversation", "chat_template", "tokenize", "padding", "truncation", "max_length"),
    *("return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"),
    *("sanitize_control_tokens", *TEMPLATE_FLAGS, *TEMPLATE_LISTS),
}
"""What a call of the template means itself, and no argument of the template."""


class PromptTokenizer:
    """Tokenizer and chat template of one model.

    Args:
        folder: The model's folder.
        context_tokens: The longest prompt worth tokenising.
        source_digest: Names the tokenizer where its files were made here from something else, as
            versions of libraries may write them differently; None to take the files' digest.

    Raises:
        ModelMissing: The folder has no tokenizer.
        UnsupportedModel: It has one that is not of the ``tokenizers`` library.
    """

    def __init__(
        self, folder: Path, *, context_tokens: int, source_digest: str | None = None
    ) -> None:
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ModelMissing(f"{folder} has no usable tokenizer: {str(error)[:200]}") from error
        if not self._tokenizer.is_fast:
            raise UnsupportedModel(f"{folder.name}: its tokenizer is not a tokenizer.json")
        self._backend = self._tokenizer.backend_tokenizer
        self._template = self._tokenizer.chat_template
        longest = max(len(token) for token in self._backend.get_vocab())
        self._characters_max = context_tokens * longest
        self.digest = source_digest or self._digest_of_backend()
        self.template_digest = _digest(self._template)

    @property
    def end_token(self) -> int | None:
        """The token that ends a text, by the tokenizer's own word."""
        token: int | None = self._tokenizer.eos_token_id
        return token

    def tokenize(self, prompt: Prompt) -> tuple[int, ...] | None:
        """The prompt's token ids: messages through the chat template, text as it stands.

        None for a ``BodyPrompt`` with anything that engines read each in a way of their own, as
        parts of a message or calls of tools.

        Raises:
            InvalidRequest: Nothing to tokenise, far too much of it, or messages that the template
                refuses.
        """
        match prompt:
            case ChatPrompt(messages=messages):
                return self._encode(self._render(messages), special=False, param="messages")
            case TextPrompt(text=text):
                return self._encode(text, special=True, param="prompt")
            case BodyPrompt():
                return self._read(prompt)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of these tokens, special ones left out."""
        text: str = self._backend.decode(list(token_ids), skip_special_tokens=True)
        return text

    def _render(self, messages: tuple[Message, ...]) -> str:
        if not messages:
            raise InvalidRequest("messages must not be empty", param="messages")
        if self._template is None:
            raise InvalidRequest(
                "this model has no chat template: use /v1/completions", param="messages"
            )
        listed = [{"role": _role(each.role), "content": each.content} for each in messages]
        try:
            text: str = self._tokenizer.apply_chat_template(
                listed, tokenize=False, add_generation_prompt=True
            )
        except jinja2.TemplateError as error:
            raise InvalidRequest(
                f"the model's chat template refuses these messages: {str(error)[:200]}",
                param="messages",
            ) from error
        return text

    def _read(self, prompt: BodyPrompt) -> tuple[int, ...] | None:
        fields: dict[str, Any] = json.loads(prompt.fields)  # any JSON of a client
        if prompt.opaque or self._template is None:
            return None
        if not prompt.chat:
            return self._read_text(fields)
        messages, given = fields.pop("messages", None), _template_arguments(fields)
        if given is None or not isinstance(messages, list) or not all(map(_is_plain, messages)):
            return None
        listed = [{**each, "role": _role(each["role"])} for each in messages]
        try:
            text: str = self._tokenizer.apply_chat_template(listed, tokenize=False, **given)
        except (jinja2.TemplateError, ValueError, TypeError, KeyError):
            # Its engine may have a template that reads it, and says what is wrong if not.
            return None
        return self._encode(text, special=False, param="messages")

    def _read_text(self, fields: Mapping[str, Any]) -> tuple[int, ...] | None:
        if set(fields) != {"prompt"}:
            return None
        value = fields["prompt"]
        if isinstance(value, list) and len(value) == 1 and not isinstance(value[0], int):
            value = value[0]
        if isinstance(value, str):
            return self._encode(value, special=True, param="prompt")
        return _given_token_ids(value)

    def _encode(self, text: str, *, special: bool, param: str) -> tuple[int, ...]:
        if len(text) > self._characters_max:
            raise InvalidRequest("the prompt is longer than the model's context", param=param)
        ids = tuple(self._backend.encode(text, add_special_tokens=special).ids)
        if not ids:
            raise InvalidRequest("the prompt is empty", param=param)
        return ids

    def _digest_of_backend(self) -> str:
        content: dict[str, Any] = json.loads(self._backend.to_str())  # any JSON
        # How a caller pads and cuts is no part of what a text is turned into.
        return _digest({k: v for k, v in content.items() if k not in {"truncation", "padding"}})


TEMPLATE_ROLES = {"developer": "system"}
"""Templates were written before OpenAI renamed the role; the meaning is the same."""


def _given_token_ids(value: object) -> tuple[int, ...] | None:
    """The tokens of a prompt that is a list of them; None for anything else."""
    if not isinstance(value, list) or not value:
        return None
    if not all(isinstance(each, int) and not isinstance(each, bool) for each in value):
        return None
    return tuple(value) if min(value) >= 0 and max(value) < 1 << 31 else None


def _role(role: str) -> str:
    return TEMPLATE_ROLES.get(role, role)


def _is_plain(message: object) -> bool:
    """Whether a message is a role and text, which every engine reads alike."""
    if not isinstance(message, dict) or set(message) != {"role", "content"}:
        return False
    return isinstance(message["role"], str) and isinstance(message["content"], str)


def _template_arguments(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """Arguments of the template's call; None when a field is not known, or of another type."""
    given: dict[str, Any] = {"add_generation_prompt": True}
    for name, value in fields.items():
        is_flag = name in TEMPLATE_FLAGS and isinstance(value, bool)
        if is_flag or (name in TEMPLATE_LISTS and _is_list_of_objects(value)):
            given[name] = value
        elif name == "chat_template_kwargs" and isinstance(value, dict):
            if _RESERVED & set(value):
                return None
            given |= value
        else:
            return None
    if given.get("continue_final_message") and "add_generation_prompt" not in fields:
        given["add_generation_prompt"] = False
    return given


def _is_list_of_objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
