"""The OpenAI-compatible API as an ASGI application."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from overlay.body import parse_chat, parse_completion
from overlay.errors import RequestError
from overlay.http.front import Front
from overlay.http.openai import Json, Shape, error_of, model_of, models_of, request_id_of
from overlay.http.refusal import CHAT_PATH, COMPLETION_PATH, REQUEST_ID
from overlay.logs import about_request
from overlay.principals import need
from overlay.request import (
    AnswerEvent,
    Delta,
    Finished,
    Principal,
    RequestId,
    Scope,
    Started,
    Submission,
    new_request_id,
)

log = logging.getLogger(__name__)

SERVED_BY = "x-rhizome-served-by"
VARIANT = "x-rhizome-variant"
SERVED = (
    f"there are {CHAT_PATH}, {COMPLETION_PATH}, /v1/models, /health, /metrics, /rhizome/status "
    "and /rhizome/explain"
)
DONE = b"data: [DONE]\n\n"

Endpoint = Callable[[Request, RequestId], Awaitable[Response]]


def make_app(front: Front) -> Starlette:
    """The application of one peer."""
    face = _Face(front)
    app = Starlette(
        routes=[
            Route(CHAT_PATH, face.guarded(face.chat), methods=["POST"]),
            Route(COMPLETION_PATH, face.guarded(face.completion), methods=["POST"]),
            Route("/v1/models", face.guarded(face.models), methods=["GET"]),
            Route("/v1/models/{name:path}", face.guarded(face.model), methods=["GET"]),
            Route("/health", face.guarded(face.health), methods=["GET"]),
            Route("/metrics", face.guarded(face.metrics), methods=["GET"]),
            Route("/rhizome/status", face.guarded(face.status), methods=["GET"]),
            Route("/rhizome/explain", face.guarded(face.explain), methods=["GET"]),
            Route("/rhizome/explain/{id}", face.guarded(face.explain), methods=["GET"]),
        ],
        exception_handlers={HTTPException: face.unknown},
    )
    app.router.redirect_slashes = False
    return app


class _Face:
    """The endpoints."""

    def __init__(self, front: Front) -> None:
        self._front = front

    def guarded(self, endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
        """Draws the request's id, and turns refusals and failures into OpenAI's form."""

        async def serve(request: Request) -> Response:
            request_id = new_request_id(self._front.entropy)
            try:
                response = await endpoint(request, request_id)
            except RequestError as error:
                with about_request(request_id):
                    log.info("refused a request: %d %s", error.status, error.code)
                response = refusal(error)
            except Exception:
                with about_request(request_id):
                    log.exception("a request failed")
                response = refusal(
                    RequestError("internal error", code="internal_error", status=500)
                )
            response.headers[REQUEST_ID] = request_id
            return response

        return serve

    async def unknown(self, request: Request, error: Exception) -> Response:
        """A path or method that is not served."""
        assert isinstance(error, HTTPException), "this handler is registered for no other"
        # From the scope: request.url would need a Host header that makes sense.
        path = request.scope["path"][:50]
        if error.status_code == 405:
            code, allowed = "method_not_allowed", (error.headers or {}).get("Allow", "")
            message = f"{request.method} is not for {path}: use {allowed}"
        else:
            code, message = "not_found", f"{request.method} {path} is not served here: {SERVED}"
        response = refusal(RequestError(message, code=code, status=error.status_code))
        response.headers.update(error.headers or {})
        response.headers[REQUEST_ID] = new_request_id(self._front.entropy)
        return response

    # -- endpoints

    async def chat(self, request: Request, request_id: RequestId) -> Response:
        return await self._complete(request, request_id, chat=True)

    async def completion(self, request: Request, request_id: RequestId) -> Response:
        return await self._complete(request, request_id, chat=False)

    async def models(self, request: Request, request_id: RequestId) -> Response:  # noqa: ARG002 - an endpoint
        principal = self._principal(request)
        return JSONResponse(models_of(self._front.models(principal.tenant)))

    async def model(self, request: Request, request_id: RequestId) -> Response:  # noqa: ARG002 - an endpoint
        principal = self._principal(request)
        name = request.path_params["name"]
        if name not in set(self._front.models(principal.tenant)):
            raise RequestError(
                "that model is not served", code="model_not_found", status=404, param="model"
            )
        return JSONResponse(model_of(name))

    async def health(self, request: Request, request_id: RequestId) -> Response:  # noqa: ARG002 - an endpoint
        return JSONResponse(dict(self._front.health()))

    async def metrics(self, request: Request, request_id: RequestId) -> Response:  # noqa: ARG002 - an endpoint
        viewer = self._principal(request, Scope.STATUS, Scope.ADMIN)
        content_type, body = self._front.metrics(viewer)
        return Response(body, headers={"content-type": content_type})

    async def status(self, request: Request, request_id: RequestId) -> Response:  # noqa: ARG002 - an endpoint
        viewer = self._principal(request, Scope.STATUS, Scope.ADMIN)
        return Response(self._front.status(viewer), media_type="application/json")

    async def explain(self, request: Request, request_id: RequestId) -> Response:  # noqa: ARG002 - an endpoint
        viewer = self._principal(request, Scope.STATUS, Scope.ADMIN)
        named = request_id_of(request.path_params.get("id", ""))
        found = self._front.explain(viewer, named)
        if found is None:
            raise RequestError(
                "that request is not among the last that this peer took in for you",
                code="request_not_found",
                status=404,
            )
        return Response(found, media_type="application/json")

    def _principal(self, request: Request, *scopes: Scope) -> Principal:
        shown = request.headers.getlist("authorization")
        if len(shown) > 1:
            # A proxy before us may have looked at another one of them.
            raise RequestError(
                "the Authorization header is there twice: send one",
                code="malformed_request",
                status=400,
            )
        scheme, _, bearer = "".join(shown).partition(" ")
        principal = self._front.authenticate(bearer.strip() if scheme.lower() == "bearer" else "")
        need(principal, *(scopes or (Scope.INFER,)))
        return principal

    async def _complete(self, request: Request, request_id: RequestId, *, chat: bool) -> Response:
        principal = self._principal(request)
        self._front.check_open()
        async with AsyncExitStack() as stack:
            stack.enter_context(self._front.admitted(principal))
            raw = await request.body()
            call = parse_chat(raw) if chat else parse_completion(raw)
            submission = Submission(
                request_id=request_id,
                principal=principal,
                call=call,
                deadline_s=self._front.clock.now_s() + self._front.request_timeout_s,
            )
            events = await stack.enter_async_context(self._front.ingress.open(submission))
            started = await anext(events)
            assert isinstance(started, Started), "an answer begins with Started"
            shape = Shape(
                request_id=request_id,
                model=started.model,
                chat=chat,
                created_unix_s=int(self._front.clock.unix_s()),
                include_usage=call.include_usage,
            )
            headers = {SERVED_BY: started.served_by, VARIANT: started.variant}
            if not call.stream:
                return JSONResponse(await whole(shape, events), headers=headers)
            lines = lines_of(shape, events, passes_chunks=started.passes_chunks)
            return EventStream(lines, stack.pop_all(), headers)
        raise AssertionError("the stack swallows no exception")


async def whole(shape: Shape, events: AsyncIterator[AnswerEvent]) -> Json:
    """The answer in one piece: the engine's own where it has given one."""
    parts: list[str] = []
    given: Json | None = None
    async for event in events:
        if isinstance(event, Delta):
            parts.append(event.text)
            given = given if event.chunk is None else shape.passed(event.chunk)
        elif isinstance(event, Finished):
            return shape.whole("".join(parts), event) if given is None else shape.told(given, event)
    raise AssertionError("an answer ends with Finished")


class EventStream(StreamingResponse):
    """The answer as server-sent events; a failure half way is an event too, and no [DONE].

    It owns the request: whatever ends the sending, the request is left in this very task, and
    before [DONE] is sent.
    """

    def __init__(
        self, lines: AsyncGenerator[bytes, None], stack: AsyncExitStack, headers: Mapping[str, str]
    ) -> None:
        self._lines = lines
        self._stack = stack
        super().__init__(self._lines, media_type="text/event-stream", headers=headers)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's
        """Sends it all."""
        end = DONE
        async with self._stack, aclosing(self._lines):
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                async for each in self._lines:
                    await send({"type": "http.response.body", "body": each, "more_body": True})
            except RequestError as error:
                end = line(error_of(error))
        await send({"type": "http.response.body", "body": end, "more_body": False})


class Passed:
    """What an engine's own chunks have said so far of one answer.

    ``spoken``: which of its choices have begun; ``ended``: a finish reason was there; ``usage``:
    token counts were. A request that was tried twice has two beginnings, of which one is shown.
    """

    def __init__(self) -> None:
        self.spoken: set[str] = set()
        self.ended = self.usage = False

    def takes(self, chunk: Json) -> bool:
        """Takes a chunk in; whether it says anything new."""
        self.usage = self.usage or bool(chunk.get("usage"))
        choices = chunk.get("choices")
        given = choices if isinstance(choices, list) else []
        choices = [each for each in given if isinstance(each, dict)]
        opens = [str(each.get("index")) for each in choices if _only_opens(each)]
        again = bool(choices) and len(opens) == len(choices) and self.spoken.issuperset(opens)
        self.spoken.update(str(each.get("index")) for each in choices)
        self.ended = self.ended or any(each.get("finish_reason") for each in choices)
        return not again


def _only_opens(choice: Json) -> bool:
    """Whether a choice of a chunk says nothing but who speaks."""
    delta = choice.get("delta")
    return (
        isinstance(delta, dict)
        and delta.get("role") is not None
        and not choice.get("finish_reason")
        and not any(value for name, value in delta.items() if name != "role")
    )


async def lines_of(
    shape: Shape, events: AsyncIterator[AnswerEvent], *, passes_chunks: bool
) -> AsyncGenerator[bytes, None]:
    """The chunks of a streamed answer: ours, or the engine's own as they are.

    The first line comes at once, so that the head does; where the engine's own are expected it is
    empty, as theirs say who speaks.
    """
    begun = shape.chat and not passes_chunks
    yield line(shape.first()) if begun else b""
    passed = Passed()
    async for event in events:
        if isinstance(event, Delta):
            if event.chunk is not None:
                chunk = shape.passed(event.chunk)
                if passed.takes(chunk):
                    yield line(chunk)
            elif event.text:
                if shape.chat and not begun and not passed.spoken:
                    begun = True
                    yield line(shape.first())
                yield line(shape.piece(event.text))
        elif isinstance(event, Finished):
            if not passed.ended:
                yield line(shape.last(event))
            if shape.include_usage and not passed.usage:
                yield line(shape.usage(event))
            return
    raise AssertionError("an answer ends with Finished")


def line(value: Json) -> bytes:
    """One server-sent event."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return b"data: " + text.encode() + b"\n\n"


def refusal(error: RequestError) -> Response:
    """A refusal in OpenAI's form."""
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error_of(error), status_code=error.status, headers=headers)
