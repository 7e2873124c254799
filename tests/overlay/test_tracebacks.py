"""Failures in logs: the places, and nothing that foreign exceptions quote."""

from __future__ import annotations

import pytest

from overlay.errors import PeerGone, RequestError
from overlay.tracebacks import DEPTH_MAX, MEMBERS_MAX, failure_lines
from security.errors import Expired

CANARY = "zanzibar-canary"


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    """The error as it is once it was caught."""
    try:
        raise error from cause
    except BaseException as caught:  # noqa: BLE001 - whatever was given
        return caught


@pytest.mark.parametrize(
    "error",
    [
        ValueError(CANARY),
        KeyError(CANARY),
        RequestError(CANARY, code="x"),
        ExceptionGroup(CANARY, [ValueError(CANARY)]),
        UnicodeDecodeError("utf-8", CANARY.encode(), 0, 1, CANARY),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_may_quote_content_is_told_by_kind_and_place(error: BaseException) -> None:
    for shown in (raised(error), raised(PeerGone("gone"), raised(error))):
        text = "\n".join(failure_lines(shown))
        assert CANARY not in text
        assert type(error).__name__ in text
        assert "in raised" in text
        assert __file__ in text


@pytest.mark.parametrize("error", [PeerGone("gone"), Expired("ended"), OSError(28, "disk is full")])
def test_what_never_quotes_content_is_told_whole(error: Exception) -> None:
    assert str(error) in failure_lines(raised(error))[-1]


def test_causes_and_what_was_being_handled_come_first() -> None:
    lines = failure_lines(raised(ValueError(), raised(KeyError("a"))))
    assert [line for line in lines if line in {"KeyError", "and then:", "ValueError"}] == [
        "KeyError",
        "and then:",
        "ValueError",
    ]


def test_a_group_tells_its_members() -> None:
    group = ExceptionGroup("x", [raised(ValueError()), raised(PeerGone("gone"))])
    lines = failure_lines(raised(group))
    assert "  | ValueError" in lines
    assert "  | overlay.errors.PeerGone: gone" in lines


def test_it_is_bounded_and_ends_for_causes_in_a_circle() -> None:
    one, other = ValueError(), KeyError()
    one.__cause__, other.__cause__ = other, one
    assert len(failure_lines(one)) <= 3 * DEPTH_MAX + 1
    wide = ExceptionGroup("x", [ValueError() for _ in range(10 * MEMBERS_MAX)])
    assert len(failure_lines(wide)) <= 2 + 2 * MEMBERS_MAX
