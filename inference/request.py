"""What goes into an engine and what comes out: the typed values of one generation.

Every engine (toy, embedded, remote) takes an :class:`EngineRequest` and answers with a stream of
:class:`TokenEvent`. The tokens of a request are a function of (prompt, emitted tokens, seed,
position), so a request that broke off can be continued by another engine of the same model from
``token_ids + emitted``.
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import NewType

from inference.errors import InvalidRequest

Namespace = NewType("Namespace", str)
"""Opaque name of the tenant whose blocks these are. Blocks are never shared across namespaces."""

BLOCK_TOKENS = 16
"""Tokens in one block of the overlay, whatever the engine's own block size is."""


class FinishReason(enum.Enum):
    """Why a generation ended; the values are OpenAI's ``finish_reason``."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One chat message; ``role`` is ``system``, ``developer``, ``user`` or ``assistant``.

    ``parts`` are those that ``content`` was joined of, where it came as several: servers join them
    in ways of their own.
    """

    role: str
    content: str
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatPrompt:
    """Messages to be rendered by the model's chat template."""

    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPrompt:
    """Plain text, tokenised as it stands."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyPrompt:
    """A prompt that is more than roles and text: tools, calls of tools, parts, template arguments.

    ``fields`` is canonical JSON (:func:`canonical_json`) of the body's fields that a prompt is made
    of: ``messages`` or ``prompt``, ``tools``, ``chat_template_kwargs`` and the like. ``opaque``
    says that some of it is no text (an image), so that no tokenizer tells what an engine makes of
    it.
    """

    chat: bool
    fields: str
    opaque: bool = False


Prompt = ChatPrompt | TextPrompt | BodyPrompt


def canonical_json(value: object) -> str:
    """JSON that is equal for equal values: keys in order, no spaces, characters as they are."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to choose tokens. ``None`` means the model's own default.

    ``temperature`` is 0 (greedy) to 2, ``top_p`` in (0, 1], ``top_k`` the most probable tokens that
    may be chosen (0: all), ``min_p`` in [0, 1] the least probability of a token as a share of the
    most probable one's, ``seed`` any 63-bit integer; ``stop`` strings are cut from the text;
    ``max_tokens`` counts tokens of the whole answer, those already emitted before a resume
    included, and ``None`` means up to the end of the context.
    """

    seed: int
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1 << 63:
            raise InvalidRequest("seed must be in [0, 2**63)", param="seed")
        if self.temperature is not None and not 0 <= self.temperature <= 2:
            raise InvalidRequest("temperature must be between 0 and 2", param="temperature")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InvalidRequest("top_p must be above 0 and at most 1", param="top_p")
        if self.top_k is not None and self.top_k < 0:
            raise InvalidRequest("top_k must be at least 0, which is no limit", param="top_k")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise InvalidRequest("min_p must be between 0 and 1", param="min_p")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InvalidRequest("max_tokens must be at least 1", param="max_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """One generation for one engine.

    ``token_ids`` is the tokenised prompt (empty where only the engine can read it), ``emitted`` the
    answer's tokens that another engine has already given (resume); ``chain_key`` (32 bytes) keys
    the tenant's block hashes; ``body`` is the client's whole JSON body for engines that pass it on,
    ``chat`` says of which kind; ``cache_salt`` separates tenants in a remote engine's cache.
    """

    request_id: str
    namespace: Namespace
    chain_key: bytes
    model: str
    token_ids: tuple[int, ...]
    sampling: Sampling
    emitted: tuple[int, ...] = ()
    body: bytes = b""
    chat: bool = False
    cache_salt: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineUsage:
    """Tokens as an engine counts them itself; ``cached_tokens`` is None where it does not tell."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEvent:
    """A piece of an answer.

    ``token_ids`` is None where the engine does not report ids (then the request cannot be
    resumed). ``text`` never splits a character and excludes stop strings; it may be empty while
    bytes of a character are pending. ``cached_tokens`` is set on the first event only: prompt
    tokens taken from the cache, or expected to be where the engine tells only at the end.
    ``finish_reason`` is set on the last event only, as is ``usage``, by engines that count
    themselves. ``chunk`` is the engine's own JSON (one object: a stream's chunk, or the whole
    answer where none was asked for), to be passed on as it is. ``ended`` is the finish reason, on
    the piece that completes the answer: what follows is its end, and usage at most.
    """

    token_ids: tuple[int, ...] | None
    text: str
    cached_tokens: int | None = None
    finish_reason: FinishReason | None = None
    usage: EngineUsage | None = None
    chunk: bytes | None = None
    ended: FinishReason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLoad:
    """How busy an engine is. Rates are its own recent averages; 0 means nothing measured yet.

    ``queued_tokens`` are uncached prompt tokens waiting or in prefill. ``used_blocks`` and
    ``total_blocks`` are for the owner's status and never leave the host.
    """

    running: int
    queued: int
    queued_tokens: int
    prefill_tokens_per_s: float
    decode_s_per_token: float
    used_blocks: int
    total_blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixIdentity:
    """What must be equal for two peers' block hashes to be comparable.

    ``tokenizer`` and ``template`` are hex digests of the tokenizer's files and chat template.
    """

    served_model: str
    tokenizer: str
    template: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputIdentity:
    """What must be equal for two peers' answers to be comparable (weights, quantisation, dtype)."""

    weights: str
    quantisation: str
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model that an engine serves. ``context_tokens`` bounds prompt plus answer.

    ``passes_bodies`` says that the engine is given the client's whole body, so that it may have
    fields that are not known here; ``estimated`` that what it has cached is inferred, not told by
    it; ``by_text`` that its prompts are hashed as text (``inference/text_units.py``).
    """

    name: str
    context_tokens: int
    prefix: PrefixIdentity
    output: OutputIdentity
    passes_bodies: bool = False
    estimated: bool = False
    by_text: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an engine can do.

    ``slots`` is how many requests it serves at once; ``block_tokens`` its own block size, a
    multiple of 16; ``exact_claims`` whether its cache events are exact; ``salts`` whether it keeps
    tenants apart by itself; ``tokenizes`` whether :meth:`tokenize` works; ``reports_token_ids``
    whether answers can be resumed. An engine with no models serves nothing (ingress only).
    ``description``, ``device`` and ``cache_bytes`` are for the owner's eyes: what it is, where it
    computes and why, and the memory of its cache, where it has any.
    """

    models: tuple[ServedModel, ...]
    slots: int
    block_tokens: int
    exact_claims: bool
    salts: bool
    tokenizes: bool
    reports_token_ids: bool
    description: str
    device: str | None = None
    cache_bytes: int | None = None
