"""Log lines: one event a line, with the request's id, without secrets, prompts or forgeries."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator

import pytest
import trio

from overlay.errors import PeerGone
from overlay.logs import (
    MASK,
    TextLines,
    about_request,
    configure_logging,
    redact,
)

JWT = "eyJhbGciOiJFZERTQSJ9.eyJ0ZW5hbnQiOiJhIn0.c2lnbmF0dXJl"
TICKET = "rhz1abcdefghijklmnop234567"
PEM = "-----BEGIN PRIVATE KEY-----\nMC4CAQ\n-----END PRIVATE KEY-----"

log = logging.getLogger("overlay.somewhere")
Written = Callable[[], str]


def fail(reason: str) -> None:
    raise ValueError(reason)


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield io.StringIO()
    root.handlers[:] = before
    root.setLevel(level)


@pytest.fixture
def as_text(stream: io.StringIO) -> Written:
    configure_logging(as_json=False, level="info", stream=stream)
    return stream.getvalue


@pytest.fixture
def as_json(stream: io.StringIO) -> Callable[[], list[dict[str, object]]]:
    configure_logging(as_json=True, level="debug", stream=stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_text_line_has_time_level_place_message_and_fields(as_text: Written) -> None:
    log.info("forwarded to %s", "12D3KooW", extra={"fields": {"hops": 1}})
    time, _, rest = as_text().partition(" ")
    assert time.endswith("Z")
    assert rest == "INFO overlay.somewhere: forwarded to 12D3KooW hops=1\n"


def test_a_json_line_is_one_object(as_json: Callable[[], list[dict[str, object]]]) -> None:
    log.warning("two\nlines of %d", 2, extra={"fields": {"peer": "x"}})
    (event,) = as_json()
    assert event["level"] == "warning"
    assert event["message"] == "two\nlines of 2"
    assert event["peer"] == "x"


def test_lines_below_the_level_are_not_written(as_text: Written) -> None:
    log.debug("nothing")
    assert as_text() == ""


async def test_lines_of_a_request_carry_its_id_in_its_tasks_too(
    as_json: Callable[[], list[dict[str, object]]],
) -> None:
    async def work() -> None:
        log.info("inside")

    with about_request("req-1"):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            with about_request("req-2"):
                log.info("other")
        log.info("again")
    log.info("outside")
    ids = {event["message"]: event.get("request_id") for event in as_json()}
    assert ids == {"inside": "req-1", "other": "req-2", "again": "req-1", "outside": None}


@pytest.mark.parametrize(
    "secret",
    [JWT, TICKET, TICKET.upper(), "Bearer abcdef0123456789", PEM],
    ids=["jwt", "ticket", "ticket-upper", "bearer", "pem"],
)
@pytest.mark.parametrize("way", ["argument", "format", "field", "exception"])
def test_secrets_never_reach_a_line(as_text: Written, secret: str, way: str) -> None:
    match way:
        case "argument":
            log.error("got %s here", secret)
        case "format":
            log.error("got " + secret.replace("%", ""))  # noqa: G003 - what a careless caller does
        case "field":
            log.error("got it", extra={"fields": {"seen": secret}})
        case _:
            try:
                raise PeerGone(f"cannot use {secret}")
            except PeerGone:
                log.exception("failed")
    assert secret.removeprefix("Bearer ").splitlines()[0][-8:] not in as_text()
    assert MASK in as_text()


@pytest.mark.parametrize("name", ["prompt", "messages", "content", "api_token", "Authorization"])
def test_fields_that_hold_secrets_or_content_by_name_are_masked(
    as_text: Written, name: str
) -> None:
    log.info("x", extra={"fields": {name: "short"}})
    assert f"{name}={MASK}" in as_text()


def test_counts_may_be_named_after_what_they_count(as_text: Written) -> None:
    log.info("x", extra={"fields": {"prompt_tokens": 512}})
    assert "prompt_tokens=512" in as_text()


def test_long_text_and_bytes_appear_as_their_size_only(as_text: Written) -> None:
    prompt = "Once upon a time " * 40
    log.info("a %s b %s c %s", prompt, b"raw", ["x" * 300])
    log.info("d", extra={"fields": {"odd": prompt}})
    assert "Once" not in as_text()
    assert "raw" not in as_text()
    assert f"<{len(prompt)} characters>" in as_text()
    assert "<3 bytes>" in as_text()


def test_input_cannot_forge_a_line_or_drive_a_terminal(as_text: Written) -> None:
    log.info("name %s", "x\n2026 ERROR overlay.node: forged\x1b[2J\r\u2028")
    assert as_text().count("\n") == 1
    assert not {"\x1b", "\r", "\u2028"} & set(as_text())


def test_a_failure_is_shown_with_its_lines(as_text: Written) -> None:
    try:
        fail("why")
    except ValueError:
        log.exception("failed")
    assert "\nValueError\n" in as_text()
    assert "Traceback" in as_text()
    assert "in fail" in as_text()


@pytest.mark.parametrize("arguments", [("x",), (1, 2), ({"a": 1},)])
def test_a_message_that_does_not_fit_its_arguments_is_still_a_line(
    arguments: tuple[object, ...],
) -> None:
    record = logging.LogRecord("here", logging.INFO, "", 1, "%d and %(b)s", arguments, None)
    assert TextLines().format(record).endswith("here: %d and %(b)s (its arguments do not fit)")


def test_there_are_no_colours_away_from_a_terminal(stream: io.StringIO) -> None:
    configure_logging(as_json=False, level="info", stream=stream)
    log.warning("x")
    assert "\x1b" not in stream.getvalue()
    configure_logging(as_json=False, level="info", stream=stream, colours=True)
    log.warning("x")
    assert "\x1b[33mWARNING\x1b[0m" in stream.getvalue()


def test_configuring_again_replaces_what_was(stream: io.StringIO) -> None:
    for _ in range(3):
        configure_logging(as_json=False, level="info", stream=stream)
    log.info("once")
    assert stream.getvalue().count("once") == 1


def test_ordinary_words_are_left_alone() -> None:
    text = "peer 12D3KooWabc refused: bearer of news, rhizome, eyJ"
    assert redact(text) == text
