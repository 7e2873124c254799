"""HTTP to the inference server of this host: small questions, whole answers, streamed answers.

Rules:

1. Nothing of the environment is used (proxies, ``.netrc``), and no redirect is followed: the
   server is the one that its owner named.
2. Every response is bounded in size; a question is bounded in time too. An answer is not: it takes
   as long as it takes, and whoever waits for it has a deadline.
3. A connection serves one request. On loopback a new one costs a tenth of a millisecond, and a kept
   one may be closed by the server just as a request is sent on it.
4. Leaving an answer closes its connection, which is how these servers are told to stop.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, NoReturn

import httpx2
import trio

from inference.errors import InferenceError
from inference.remote.settings import RemoteSettings
from inference.remote.sse import EventTooLarge, SseParser
from inference.strict_json import NotJson, check_characters, read_json

ERROR_BYTES_MAX = 1 << 16
TEXT_BYTES_MAX = 8 << 20
"""A large vLLM's metrics are some hundred KiB; a list of models or the tokens of a prompt less."""

ANSWER_BYTES_MAX = 1 << 24
"""Of an answer in one piece: 8,000 tokens with 20 log probabilities each."""

MESSAGE_CHARS_MAX = 300
CLOSE_S = 1.0
"""Closing a connection is a local matter."""

Json = dict[str, Any]  # any JSON object of a foreign server


class ServerError(InferenceError):
    """The inference server did not do what it was asked for."""


class ServerUnreachable(ServerError):
    """There is no connection to be had, or (``slow``) no answer in time."""

    def __init__(self, message: str, *, slow: bool = False) -> None:
        super().__init__(message)
        self.slow = slow


class ServerRefused(ServerError):
    """It answered with an error. ``message`` is for the client whose request it is."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(f"the inference server answered {status}")
        self.status = status
        self.message = message
        self.param = param
        self.code = code


class ServerBroken(ServerError):
    """The connection broke, or what came is not what such a server says."""


class Server:
    """One inference server.

    Args:
        settings: Where it is, and how long it is waited for.
    """

    def __init__(self, settings: RemoteSettings) -> None:
        self._timeouts = settings.timeouts
        self._url = settings.url
        self._headers = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "rhizome"}
        if settings.api_key:
            self._headers["Authorization"] = f"Bearer {settings.api_key}"
        secure = settings.url.startswith("https:")
        # The transport alone: a client above it would log each request and keep cookies.
        self._transport = httpx2.AsyncHTTPTransport(
            trust_env=False,
            # Reading the system's certificates takes a while and is of no use without TLS.
            verify=ssl.create_default_context()
            if secure
            else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
        )
        timeout = httpx2.Timeout(None, connect=self._timeouts.connect_s)
        self._extensions = {"timeout": timeout.as_dict()}

    async def get_json(self, path: str) -> Json:
        """A JSON object; raises any :class:`ServerError`."""
        return decode_object(await self._ask("GET", path, None))

    async def post_json(self, path: str, body: Json, *, within_s: float | None = None) -> Json:
        """A JSON object in answer to one; raises any :class:`ServerError`."""
        return decode_object(await self._ask("POST", path, encode_json(body), within_s))

    async def get_text(self, path: str, *, within_s: float | None = None) -> str:
        """Text, as of ``/metrics``; raises any :class:`ServerError`."""
        return (await self._ask("GET", path, None, within_s)).decode(errors="replace")

    async def whole(self, path: str, body: bytes) -> bytes:
        """A whole answer, however long it takes; raises any :class:`ServerError`."""
        async with self._opened("POST", path, body) as response:
            return await _read(response, ANSWER_BYTES_MAX)

    @asynccontextmanager
    async def stream(self, path: str, body: bytes) -> AsyncIterator[AsyncIterator[bytes]]:
        """A streamed answer: entered when it has begun, it gives the payload of each event.

        Raises:
            ServerError: On entering or from the iterator.
        """
        async with self._opened("POST", path, body) as response:
            if "event-stream" not in response.headers.get("content-type", ""):
                raise ServerBroken("the inference server does not stream")
            async with aclosing(_payloads(response)) as payloads:
                yield payloads

    async def aclose(self) -> None:
        """Closes what is still open."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
            await self._transport.aclose()

    async def _ask(
        self, method: str, path: str, body: bytes | None, within_s: float | None = None
    ) -> bytes:
        try:
            with trio.fail_after(self._timeouts.answer_s if within_s is None else within_s):
                async with self._opened(method, path, body) as response:
                    return await _read(response, TEXT_BYTES_MAX)
        except trio.TooSlowError:
            raise ServerUnreachable("the inference server is silent", slow=True) from None

    @asynccontextmanager
    async def _opened(
        self, method: str, path: str, body: bytes | None
    ) -> AsyncIterator[httpx2.Response]:
        headers = self._headers | ({} if body is None else {"Content-Type": "application/json"})
        response: httpx2.Response | None = None
        try:
            request = httpx2.Request(
                method,
                self._url + path,
                headers=headers,
                content=body,
                extensions=self._extensions,
            )
            response = await self._transport.handle_async_request(request)
            response.request = request
            if response.status_code != 200:
                raise await _refusal(response)
            if response.headers.get("content-encoding", "identity") != "identity":
                raise ServerBroken("the inference server compresses although it was asked not to")
            yield response
        except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL) as error:
            _raise(error)
        finally:
            if response is not None:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
                    await response.aclose()


def encode_json(value: object) -> bytes:
    """JSON as compact as servers write it, in the order given.

    Raises:
        ServerBroken: For a number that JSON does not have, half a surrogate pair, or nesting
            without end.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode()
    except (ValueError, RecursionError):
        raise ServerBroken("something that cannot be written as JSON") from None


def decode_object(data: bytes) -> Json:
    """A JSON object of the server.

    Raises:
        ServerBroken: For anything else, as for nesting without end, a number that is too large for
            one, or half a surrogate pair: nothing that was made of it could be handed on.
    """
    try:
        value = read_json(data)
        check_characters(value, data)
    except NotJson:
        raise ServerBroken("the inference server sent no valid JSON") from None
    if not isinstance(value, dict):
        raise ServerBroken("the inference server sent JSON that is no object")
    return value


async def _read(response: httpx2.Response, limit: int) -> bytes:
    data = bytearray()
    async with aclosing(response.aiter_raw()) as pieces:
        async for piece in pieces:
            data += piece
            if len(data) > limit:
                raise ServerBroken(f"the inference server sent more than {limit} bytes")
    return bytes(data)


async def _payloads(response: httpx2.Response) -> AsyncGenerator[bytes, None]:
    parser = SseParser()
    async with aclosing(response.aiter_raw()) as pieces:
        async for piece in pieces:
            try:
                payloads = parser.feed(piece)
            except EventTooLarge as error:
                raise ServerBroken(f"the inference server: {error}") from None
            for payload in payloads:
                yield payload


async def _refusal(response: httpx2.Response) -> ServerError:
    status = response.status_code
    if status < 400:
        return ServerBroken(f"the inference server answered {status}, which is not followed")
    try:
        body = decode_object(await _read(response, ERROR_BYTES_MAX))
    except ServerBroken:
        body = {}
    return refused(status, body)


def refused(status: int, body: Json) -> ServerRefused:
    """The error that a server's body tells, as OpenAI has it (``error``) or flat."""
    nested = body.get("error")
    error = nested if isinstance(nested, dict) else body
    said = nested if isinstance(nested, str) else error.get("message")
    param, code, kind = (error.get(name) for name in ("param", "code", "type"))
    code = code if isinstance(code, str) else kind
    return ServerRefused(
        status,
        cleaned(said) if isinstance(said, str) else f"the inference server answered {status}",
        param=_param(param) if isinstance(param, str) else None,
        code=code[:64] if isinstance(code, str) else None,
    )


def _param(param: str) -> str | None:
    param = param.removeprefix("body.")[:64]
    return param if param.isprintable() else None


def cleaned(message: str) -> str:
    """A server's message without what it quotes of a request: one line, and not too long."""
    for quote in ("'input'", '"input"', "input_value", " (parameter="):
        message = message.split(quote, 1)[0]
    words = " ".join("".join(c if c.isprintable() else " " for c in message).split())
    return words[:MESSAGE_CHARS_MAX].rstrip(" ,{(") or "the inference server gave no reason"


def _raise(error: Exception) -> NoReturn:
    """A library's error as ours, without its text: that may hold addresses and headers."""
    name = type(error).__name__
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        raise ServerUnreachable("the inference server cannot be reached") from None
    raise ServerBroken(f"the connection to the inference server broke ({name})") from None
