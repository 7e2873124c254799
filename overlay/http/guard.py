"""Refuses requests that a browser was tricked into, before the application sees them.

Host: RFC 9112, 3.2 (400 for a malformed one), RFC 9110, 7.4 (421 for one that is not ours).
Origin: a page of another origin may call where it was named, and then gets its CORS headers from
starlette.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from overlay.errors import RequestError
from overlay.http.app import SERVED_BY, VARIANT, refusal
from overlay.http.names import KnownNames, host_of
from overlay.http.refusal import REQUEST_ID, Stamp
from overlay.logs import about_request

log = logging.getLogger(__name__)


class Guard:
    """An ASGI application in front of another.

    Args:
        app: Gets what is not refused.
        known: The names that count at present; a new certificate may bring others.
        stamp: For the ids of refused requests.
    """

    def __init__(self, app: ASGIApp, known: Callable[[], KnownNames], stamp: Stamp) -> None:
        self._app = app
        self._known = known
        self._stamp = stamp
        self._crossing = CORSMiddleware(
            app,
            allow_origin_regex=".*",  # only those that were let through come here
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=[REQUEST_ID, SERVED_BY, VARIANT, "retry-after"],
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers it with why not."""
        headers = dict(scope["headers"])
        try:
            crosses = check(headers, self._known())
        except RequestError as error:
            await self._refuse(error, scope, receive, send)
            return
        await (self._crossing if crosses else self._app)(scope, receive, send)

    async def _refuse(
        self, error: RequestError, scope: Scope, receive: Receive, send: Send
    ) -> None:
        request_id = self._stamp.request_id()
        with about_request(request_id):
            log.info("refused a request: %d %s", error.status, error.code)
        response = refusal(error)
        response.headers[REQUEST_ID] = request_id
        await response(scope, receive, send)


def check(headers: dict[bytes, bytes], known: KnownNames) -> bool:
    """Judges the Host and Origin of a request; whether a page of another origin calls.

    A request of HTTP/1.0 may have no Host; no browser sends such.

    Raises:
        RequestError: 400, 403 or 421.
    """
    authority = headers.get(b"host", b"localhost").decode("latin-1")
    host = host_of(authority)
    if host is None:
        raise RequestError("malformed Host header", code="malformed_request", status=400)
    if not known.knows(host):
        raise RequestError(
            "this API does not answer to the name in the Host header: call it by address, or give "
            "its peer that name with --http-host",
            code="misdirected_request",
            status=421,
        )
    said = headers.get(b"origin")
    if said is None:
        return False
    origin = said.decode("latin-1")
    if not known.trusts(origin, authority):
        raise RequestError(
            "pages of that origin may not call this API: name it with --http-origin to let them",
            code="origin_not_allowed",
            status=403,
        )
    return origin.lower() in known.origins
