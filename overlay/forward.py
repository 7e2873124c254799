"""The forward protocol ``/rhizome/forward/1``: one request handed to the peer that runs it.

The ingress opens a stream whose opening message is :class:`ForwardRequest`. The serving peer
answers :class:`Accept` or :class:`Refuse` within the forward budget, then :class:`Tokens` as they
come, :class:`Progress` at least every 500 ms where none come, and one :class:`End` or
:class:`Failed`. A forward is never forwarded on: it crosses one hop.

The client's body travels whole and as it was sent. The serving peer reads it anew, and refuses one
with a field that it does not know: dropping it would change the answer unseen. The client's token
never travels, its id does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from overlay.errors import ProtocolError
from overlay.wire import read

PROTOCOL = "/rhizome/forward/1"
VERSION = 1

BODY_BYTES_MAX = 1 << 20
"""The HTTP face takes no larger body either."""

FINISH_REASONS = "^(stop|length|tool_calls|content_filter)$"

CHUNK_BYTES_MAX = 1 << 18
"""Of an engine's JSON in one message: long ones let those of other requests pass between."""

TEXT_CHARS_MAX = 1 << 16

ANSWER_BYTES_MAX = 1 << 26
"""Of an engine's JSON in one answer, over all of its messages: what memory it may cost a peer."""

TOKENS_MAX = 1 << 18
"""Longest prompt or answer in tokens that a forward carries: the largest context in use."""

PROGRESS_EVERY_S = 0.5

START_MS_MAX = 86_400_000
"""No request waits longer than its deadline can be."""

Count = Annotated[int, Meta(ge=0, le=TOKENS_MAX)]

Text = Annotated[str, Meta(max_length=256)]
TokenIds = Annotated[
    list[Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]], Meta(max_length=TOKENS_MAX)
]


class ForwardRequest(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="forward"
):
    """A request for the serving peer.

    ``token_ids`` is None where the ingress has no tokenizer. ``seed`` is drawn by the ingress when
    the client gave none, so that a resumed answer goes on as it began. ``emitted`` are the answer's
    tokens that the client has already (resume). ``deadline_ms`` is what is left of the request's
    time. ``hops`` is 1: the receiver refuses more. ``variant`` is the one that the receiver's
    record told (``overlay/served.py``): with another one it refuses, as the record was old.
    """

    v: Annotated[int, Meta(ge=1, le=255)]
    request_id: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    attempt: Annotated[int, Meta(ge=0, le=255)]
    tenant: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    token_id: Text
    chat: bool
    model: Text
    body: Annotated[bytes, Meta(max_length=BODY_BYTES_MAX)]
    token_ids: TokenIds | None
    emitted: TokenIds
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    deadline_ms: Annotated[int, Meta(ge=0, le=86_400_000)]
    hops: Annotated[int, Meta(ge=1, le=255)]
    variant: Text | UnsetType = UNSET


class Accept(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="accept"):
    """The request is queued or running. ``cached_tokens`` and the start are what we expect."""

    cached_tokens: Count
    expected_start_ms: Annotated[int, Meta(ge=0, le=START_MS_MAX)]


class Refuse(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="refuse"):
    """Not here; nothing was started. ``code`` is one of :data:`REFUSALS`."""

    code: Text


class Tokens(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="tokens"):
    """More of the answer; ``cached_tokens`` with the first one.

    ``chunk`` is the engine's own JSON of it; only peers whose record says that their engine is
    given whole bodies send any. One that is too large for a message comes in several, all but the
    last of which have ``more`` (:func:`pieces_of`). ``ended`` is the finish reason, with the piece
    that completes the answer, where its end may come later.
    """

    token_ids: TokenIds | None
    text: str
    cached_tokens: Count | None = None
    chunk: Annotated[bytes, Meta(max_length=CHUNK_BYTES_MAX)] | UnsetType = UNSET
    more: bool | UnsetType = UNSET
    ended: Annotated[str, Meta(pattern=FINISH_REASONS)] | UnsetType = UNSET


class Progress(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="progress"
):
    """Still alive; nothing to show yet."""


class End(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="end"):
    """The answer is complete."""

    finish_reason: Annotated[str, Meta(pattern=FINISH_REASONS)]
    prompt_tokens: Count
    completion_tokens: Count
    cached_tokens: Count


class Failed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="failed"):
    """It broke, or the request itself was found wrong (then in place of ACCEPT, too).

    ``retryable`` says that another peer may do better; ``param`` names the field to blame.
    """

    code: Text
    message: Text
    status: Annotated[int, Meta(ge=400, le=599)]
    retryable: bool
    param: Text | UnsetType = UNSET


Answer = Accept | Refuse | Tokens | Progress | End | Failed

PART_TOO_SMALL = "part_too_small"
"""The refusal of a host that divides its cache among its tenants."""

REFUSALS = (
    "not_a_member",
    "unknown_model",
    "overloaded",
    "draining",
    "too_many_hops",
    "cannot_tokenize",
    "cannot_read",
    "deadline",
    "stalled",
    "not_isolated",
    "other_variant",
    PART_TOO_SMALL,
)


def pieces_of(tokens: Tokens) -> Iterator[Tokens]:
    """A piece of an answer as messages that are not too large, of which the last has the rest."""
    text, chunk = tokens.text, tokens.chunk or b""
    while len(text) > TEXT_CHARS_MAX:
        yield Tokens(token_ids=None, text=text[:TEXT_CHARS_MAX], more=True)
        text = text[TEXT_CHARS_MAX:]
    while len(chunk) > CHUNK_BYTES_MAX:
        yield Tokens(token_ids=None, text="", chunk=chunk[:CHUNK_BYTES_MAX], more=True)
        chunk = chunk[CHUNK_BYTES_MAX:]
    yield msgspec.structs.replace(tokens, text=text, chunk=chunk or UNSET)


class Joined:
    """Puts the messages of one piece together again."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._chunks: list[bytes] = []
        self._size = 0

    def add(self, tokens: Tokens) -> Tokens | None:
        """The whole piece, once its last message is there.

        Raises:
            ProtocolError: The answer is larger than one may be.
        """
        self._size += len(tokens.chunk or b"") + len(tokens.text)
        if self._size > ANSWER_BYTES_MAX:
            raise ProtocolError("an answer is too large")
        if not tokens.more and not self._texts:
            return tokens
        self._texts.append(tokens.text)
        self._chunks.append(tokens.chunk or b"")
        if tokens.more:
            return None
        text, chunk = "".join(self._texts), b"".join(self._chunks)
        self._texts, self._chunks = [], []
        return msgspec.structs.replace(tokens, text=text, chunk=chunk or UNSET)


_encoder = msgspec.msgpack.Encoder()
_request_decoder = msgspec.msgpack.Decoder(ForwardRequest)
_answer_decoder: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


def encode(message: ForwardRequest | Answer) -> bytes:
    """The bytes of one message."""
    return _encoder.encode(message)


def decode_request(data: bytes) -> ForwardRequest:
    """Reads an opening message.

    Raises:
        ProtocolError: when it is not one of this version; the content is not in the message.
    """
    return read(_request_decoder, data, "forward message", VERSION)


def decode_answer(data: bytes) -> Answer:
    """Reads an answer. Raises ProtocolError as :func:`decode_request`."""
    return read(_answer_decoder, data, "forward message")
