"""What the driver says itself: when, as which request, and why something never reaches the API."""

from __future__ import annotations

import json
from email.utils import formatdate

from overlay.errors import RequestError
from overlay.http.openai import error_of
from overlay.ports import Clock, Entropy
from overlay.request import RequestId, new_request_id

REQUEST_ID = "x-request-id"

CHAT_PATH = "/v1/chat/completions"
COMPLETION_PATH = "/v1/completions"
PROMPT_FIELDS = {CHAT_PATH: "messages", COMPLETION_PATH: "prompt"}
"""The field that makes a body of these paths too large."""


class Stamp:
    """Time and ids of responses. The Date header is spelled once a second."""

    def __init__(self, clock: Clock, entropy: Entropy) -> None:
        self._clock = clock
        self._entropy = entropy
        self._second = -1
        self._date = b""

    def date(self) -> bytes:
        """The time as RFC 9110 wants it in a Date header."""
        second = int(self._clock.unix_s())
        if second != self._second:
            self._second, self._date = second, formatdate(second, usegmt=True).encode()
        return self._date

    def request_id(self) -> RequestId:
        """A new request's id."""
        return new_request_id(self._entropy)


class Refused(Exception):
    """What the client sent is not answered by the application; the connection ends.

    ``code`` is stable, ``param`` the field of the body that is to blame.
    """

    def __init__(self, status: int, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param

    def body(self) -> bytes:
        """The refusal in OpenAI's form."""
        error = RequestError(self.message, code=self.code, status=self.status, param=self.param)
        return json.dumps(error_of(error)).encode()


MALFORMED_CODES = {431: "headers_too_large", 501: "not_implemented"}
"""Other violations of HTTP that h11 finds are ``malformed_request``."""


def malformed(status: int) -> Refused:
    """The refusal of bytes that are no HTTP, by the status that h11 advises."""
    code = MALFORMED_CODES.get(status, "malformed_request")
    words = "the request's head is too large" if status == 431 else "malformed HTTP request"
    return Refused(status, code, words)
