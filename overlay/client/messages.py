"""``/rhizome/client/1``: what a peer client says, on the overlay port or on the Unix socket.

One stream is one request. The opening message is :class:`Ask`; the answer is one
:class:`Began`, any number of :class:`Piece`, one :class:`Done`; or :class:`Refusal` at any point.
On the overlay port ``credential`` is a bearer token. On the Unix socket, whose owner is the host's
owner, it is a tenant's name.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from overlay.forward import BODY_BYTES_MAX, CHUNK_BYTES_MAX, TokenIds
from overlay.wire import read

PROTOCOL = "/rhizome/client/1"
VERSION = 1
CREDENTIAL_CHARS_MAX = 4096
DEADLINE_MS_MAX = 86_400_000

Text = Annotated[str, Meta(max_length=1024)]
Count = Annotated[int, Meta(ge=0)]


class Ask(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag="ask",
):
    """A completion body in OpenAI's form, and what it may cost in time.

    ``chunks`` asks for the engine's own JSON too, where there is any.
    """

    v: Annotated[int, Meta(ge=1, le=255)]
    credential: Annotated[str, Meta(max_length=CREDENTIAL_CHARS_MAX)]
    chat: bool
    body: Annotated[bytes, Meta(max_length=BODY_BYTES_MAX)]
    deadline_ms: Annotated[int, Meta(ge=1, le=DEADLINE_MS_MAX)]
    chunks: bool = False


class Began(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="began"):
    """The request runs."""

    request_id: Text
    model: Text
    served_by: Text


class Piece(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag="piece",
):
    """More of the answer; ``chunk`` is the engine's own JSON, for an :class:`Ask` that wants it."""

    text: str
    token_ids: TokenIds | None
    chunk: Annotated[bytes, Meta(max_length=CHUNK_BYTES_MAX)] | None = None


class Done(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="done"):
    """The answer is complete."""

    finish_reason: Text
    prompt_tokens: Count
    completion_tokens: Count
    cached_tokens: Count
    served_by: Text
    hops: Count
    resumes: Count


class Refusal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="refusal"):
    """It failed; the fields are those of ``overlay.errors.RequestError``."""

    request_id: Text
    code: Text
    message: Text
    status: Annotated[int, Meta(ge=400, le=599)]
    param: Text | None = None
    retry_after_s: float | None = None


Reply = Began | Piece | Done | Refusal

_encoder = msgspec.msgpack.Encoder()
_ask = msgspec.msgpack.Decoder(Ask)
_reply: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def encode(message: Ask | Reply) -> bytes:
    """The bytes of one message."""
    return _encoder.encode(message)


def decode_ask(data: bytes) -> Ask:
    """Reads an opening message. Raises ProtocolError, without the content."""
    return read(_ask, data, "client message", VERSION)


def decode_reply(data: bytes) -> Reply:
    """Reads an answer message. Raises ProtocolError, without the content."""
    return read(_reply, data, "client message")
