"""Log lines on stderr: plain text or JSON, each with the id of the request it is about.

Rules that a line keeps whatever was logged:

1. No secrets: tokens, tickets, keys and authorisation headers are masked by their shape, and
   extra fields by their name.
2. No prompts or answers: bytes never appear, and long text appears only as its length. Of a failure
   the places appear, and what it says only where that is ours (``overlay/tracebacks.py``).
3. One event, one line in JSON, and in text no control characters: input cannot forge lines.

Code logs through the standard library (``logging.getLogger(__name__)``), with constant formats and
ids or numbers as arguments; structured fields go into ``extra={"fields": {...}}``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO

from overlay.tracebacks import failure_lines

TEXT_CHARS_MAX = 160
"""Ids, addresses and reasons are shorter; what is longer may be a prompt, so it is left out."""

MASK = "<redacted>"

_request_id: ContextVar[str | None] = ContextVar("rhizome_request_id", default=None)

_SECRET_SHAPES = re.compile(
    r"""
      eyJ[\w-]{6,}\.[\w-]+(?:\.[\w-]*)?                      # a JWT
    | \brhz\d[a-z2-7=]{8,}                                   # a ticket
    | (?<=bearer\ )[^\s"']{8,}                               # an authorisation header
    | -----BEGIN[^-]*PRIVATE\ KEY-----.*?(?:-----END[^-]*-----|\Z)
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
_SECRET_FIELDS = re.compile(
    r"prompt|message|content|text|body|secret|key|token\b|ticket|password|authorization|salt",
    re.IGNORECASE,
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_COLOURS = {"WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[31m"}


@contextlib.contextmanager
def about_request(request_id: str) -> Iterator[None]:
    """Lines logged inside, and in tasks started inside, carry this request's id."""
    before = _request_id.set(request_id)
    try:
        yield
    finally:
        _request_id.reset(before)


def configure_logging(
    *, as_json: bool, level: str, stream: TextIO | None = None, colours: bool | None = None
) -> None:
    """Sends all log lines to ``stream`` (stderr) in one format, instead of whatever was set.

    Args:
        as_json: one JSON object a line instead of text.
        level: ``debug``, ``info``, ``warning`` or ``error``.
        stream: where to.
        colours: None means only where the stream is a terminal.
    """
    target = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(target)
    coloured = target.isatty() if colours is None else colours
    handler.setFormatter(JsonLines() if as_json else TextLines(colours=coloured))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    # Other people's debug lines may quote what they received.
    for library in ("zeroconf", "asyncio", "httpx", "httpcore", "transformers", "urllib3"):
        logging.getLogger(library).setLevel(max(logging.WARNING, root.level))


class TextLines(logging.Formatter):
    """``2026-01-31T12:00:00.123Z INFO overlay.node: message request=… field=…``."""

    def __init__(self, *, colours: bool = False) -> None:
        super().__init__()
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        level = record.levelname
        if self._colours and level in _COLOURS:
            level = f"{_COLOURS[level]}{level}\x1b[0m"
        line = f"{_when(record)} {level} {record.name}: {_one_line(_message(record))}"
        for name, value in _fields(record).items():
            line += f" {name}={_one_line(str(value))}"
        return "\n".join([line, *_failure(record)])


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, request_id and the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, object] = {
            "time": _when(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
            **_fields(record),
        }
        failure = _failure(record)
        if failure:
            event["traceback"] = "\n".join(failure)
        return json.dumps(event, ensure_ascii=False, default=lambda value: type(value).__name__)


def redact(text: str) -> str:
    """The text with everything masked that has the shape of a secret."""
    return _SECRET_SHAPES.sub(MASK, text)


def _when(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(record: logging.LogRecord) -> str:
    arguments = record.args
    if isinstance(arguments, Mapping):
        bounded: object = {name: _bounded(value) for name, value in arguments.items()}
    else:
        bounded = tuple(_bounded(value) for value in arguments or ())
    try:
        return redact(str(record.msg) % bounded if arguments else str(record.msg))
    except (TypeError, ValueError, KeyError):
        return redact(f"{record.msg} (its arguments do not fit)")


def _bounded(value: object) -> object:
    """What may stand for a value in a line: itself, if it is small and not content."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    text = str(value)
    return text if len(text) <= TEXT_CHARS_MAX else f"<{len(text)} characters>"


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields: dict[str, object] = {}
    request_id = _request_id.get()
    if request_id is not None:
        fields["request_id"] = request_id
    extra = getattr(record, "fields", None)
    for name, value in (extra if isinstance(extra, Mapping) else {}).items():
        hidden = _SECRET_FIELDS.search(name) and not isinstance(value, int | float)
        bounded = _bounded(value)
        fields[name] = MASK if hidden else redact(bounded) if isinstance(bounded, str) else bounded
    return fields


def _failure(record: logging.LogRecord) -> list[str]:
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        return []
    shown = "\n".join(failure_lines(error))
    return [_one_line(str(_bounded(line))) for line in redact(shown).splitlines()]


def _one_line(text: str) -> str:
    escaped = text.replace("\n", "\\n").replace("\t", " ")
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", escaped)
