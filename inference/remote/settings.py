"""What the host's owner says about an inference server that already runs on this host.

The URL is checked here, once: a mistake is told at start in one sentence, not found out by the
first request. Nothing here opens a connection.
"""

from __future__ import annotations

import enum
import ipaddress
from dataclasses import dataclass, field
from urllib.parse import urlsplit


class RemoteKind(enum.Enum):
    """Which server it is; the values are what an owner writes."""

    VLLM = "vllm"
    SGLANG = "sglang"
    LLAMACPP = "llamacpp"
    OLLAMA = "ollama"
    OPENAI = "openai"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteTimeouts:
    """How long is waited for the server, in seconds.

    ``connect_s`` bounds making a connection: the server is on this host, so a long wait only hides
    that it is not there. ``answer_s`` bounds a question about the server (models, tokens),
    ``health_s`` the one whether it is well, and ``tokenize_s`` the tokens of a client's prompt: who
    waits longer for them loses more than is ever cached.
    ``enter_s`` is how long entering a request waits for the server to accept it: an error that
    comes by then is told before a promise is made to anybody, and the wait is within what a
    forwarding peer allows for one. ``leave_s`` bounds leaving a request, ``first_look_s`` how long
    a peer's start waits for the first look at the server, ``silent_s`` how long an answer may be
    silent before a server that is not healthy either counts as stalled.
    """

    connect_s: float = 2.0
    answer_s: float = 10.0
    health_s: float = 2.0
    tokenize_s: float = 2.0
    enter_s: float = 0.03
    leave_s: float = 2.0
    first_look_s: float = 5.0
    silent_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteSettings:
    """An inference server, as its owner describes it.

    Args:
        kind: What it is.
        url: Where it listens, as in ``http://127.0.0.1:8000``; a trailing ``/v1`` is cut.
        model: The one model to serve, as the server names it; None for all that it has.
        tokenizer: Folder or hub id of the model's tokenizer; None to look for it.
        api_key: Sent as a bearer token; never shown.
        slots: How many requests it serves at once; 0 for what it tells, else the kind's default.
        context_tokens: Its context length; 0 for what it tells, else the kind's default.
        events: ZeroMQ endpoint of its cache events; None for what it tells, else none.
        replay: ZeroMQ endpoint that repeats missed events; None likewise.
        events_bind: Whether we bind the events endpoint and the server connects to it.
        ranks: Data parallel ranks that send events, each on a port of its own.
        queue_max: Requests that wait beyond the slots; more are refused.
        fetches: Whether clients may name URLs (of images) for the server to fetch.

    Raises:
        ValueError: For a URL or key that cannot be used; the message says why.
    """

    kind: RemoteKind
    url: str
    model: str | None = None
    tokenizer: str | None = None
    api_key: str | None = field(default=None, repr=False)
    slots: int = 0
    context_tokens: int = 0
    events: str | None = None
    replay: str | None = None
    events_bind: bool = False
    ranks: int = 1
    queue_max: int = 64
    fetches: bool = False
    timeouts: RemoteTimeouts = field(default_factory=RemoteTimeouts)

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", checked_url(self.url))
        key = self.api_key
        if key is not None and not (key.isascii() and key.isprintable() and key.strip() == key):
            raise ValueError("the API key of the inference server must be plain ASCII text")
        if min(self.slots, self.context_tokens, self.queue_max) < 0 or self.ranks < 1:
            raise ValueError("slots, context and queue of the inference server cannot be negative")


def checked_url(url: str) -> str:
    """The base URL of a server, without a path ``/v1`` or a slash at its end.

    Raises:
        ValueError: When it is none, or one that would show a secret or prompts to others.
    """
    example = "as in http://127.0.0.1:8000"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"the inference server's URL cannot be read: give one {example}") from None
    if parts.scheme not in {"http", "https"} or not host or any(map(str.isspace, url)):
        raise ValueError(f"the inference server's URL must be http or https with a host, {example}")
    if parts.username is not None or parts.password is not None:
        raise ValueError("the inference server's URL must not hold a password: give the API key")
    if parts.query or parts.fragment:
        raise ValueError(f"the inference server's URL must end after its path, {example}")
    if parts.scheme == "http" and _is_public(host):
        raise ValueError(
            "the inference server's URL is a public address without encryption, which would show "
            "prompts to the network: use https"
        )
    shown = f"[{host}]" if ":" in host else host
    where = shown if port is None else f"{shown}:{port}"
    return f"{parts.scheme}://{where}{parts.path.rstrip('/').removesuffix('/v1').rstrip('/')}"


def _is_public(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return False
