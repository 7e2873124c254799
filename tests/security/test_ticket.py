"""Tickets: one word that survives a mail, and says what is wrong with it when it does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from security.errors import Expired, LimitExceeded, MalformedTicket, UnsupportedVersion
from security.tenant import TenantName
from security.ticket import Ticket, check_ticket, ticket_id_of
from tests.security.world import NOW_S, Overlay


def ticket(seed: int = 1) -> Ticket:
    overlay = Overlay(seed)
    return Ticket(
        overlay_id=overlay.overlay_id,
        root=overlay.root.der,
        issuer_id=overlay.issuer.issuer_id,
        secret=overlay.secret(32),
        expires_unix_s=int(NOW_S) + 600,
        addresses=("192.168.1.20:7402", "[fd00::20]:7402"),
        tenants=(TenantName("default"), TenantName("alpha")),
    )


TICKET = ticket()
TEXT = TICKET.to_text()


def test_a_ticket_is_read_back_whole() -> None:
    assert Ticket.parse(TEXT) == TICKET
    assert TEXT.startswith("rhz1")
    assert len(TEXT) < 800


def test_case_spaces_and_line_breaks_do_not_matter() -> None:
    wrapped = "\n  ".join(TEXT[i : i + 60] for i in range(0, len(TEXT), 60)).upper()
    assert Ticket.parse(f"  {wrapped}\r\n") == TICKET


@pytest.mark.parametrize("end", [8, 20, 100, len(TEXT) // 2, len(TEXT) - 20, len(TEXT) - 1])
def test_a_cut_off_ticket_is_said_to_be_cut_off(end: int) -> None:
    with pytest.raises(MalformedTicket, match="cut off"):
        Ticket.parse(TEXT[:end])


@given(st.integers(4, len(TEXT) - 1), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
def test_a_mistyped_ticket_is_refused(position: int, letter: str) -> None:
    typo = TEXT[:position] + letter + TEXT[position + 1 :]
    if typo == TEXT:
        return
    # The length stands in the first letters; a typo there looks like a cut.
    with pytest.raises(MalformedTicket, match="mistyped" if position > 8 else "mistyped|cut off"):
        Ticket.parse(typo)


@pytest.mark.parametrize("letter", ["0", "1", "8", "9", "-", "ä"])
def test_letters_that_no_ticket_has_are_said_so(letter: str) -> None:
    with pytest.raises(MalformedTicket, match="mistyped"):
        Ticket.parse(TEXT[:50] + letter + TEXT[51:])


@pytest.mark.parametrize("more", ["a", "aa", "aaaaaaaa", "a" * 9000])
def test_a_ticket_with_more_behind_it_is_refused(more: str) -> None:
    with pytest.raises(MalformedTicket):
        Ticket.parse(TEXT + more)


def test_a_ticket_of_another_version_says_so() -> None:
    with pytest.raises(UnsupportedVersion, match="version 2"):
        Ticket.parse("rhz2" + TEXT[4:])


@given(st.text(max_size=100))
def test_something_else_is_no_ticket(text: str) -> None:
    with pytest.raises((MalformedTicket, UnsupportedVersion)):
        Ticket.parse(text)


def test_a_tickets_end_is_known_before_anybody_is_asked() -> None:
    TICKET.check_dates(NOW_S + 600)
    with pytest.raises(Expired, match="rhizome invite"):
        TICKET.check_dates(NOW_S + 601)


def test_the_id_follows_from_the_secret_and_does_not_give_it() -> None:
    verifier = TICKET.key().public_key().public_bytes_raw()
    assert TICKET.ticket_id == ticket_id_of(verifier)
    assert TICKET.secret.hex() not in TICKET.ticket_id
    assert replace(TICKET, secret=bytes(32)).ticket_id != TICKET.ticket_id


def test_the_secret_does_not_show_in_logs() -> None:
    assert TICKET.secret.hex() not in repr(TICKET)
    assert repr(TICKET.secret) not in repr(TICKET)


def test_a_ticket_is_bounded() -> None:
    check_ticket(["a"] * 16, ["t"] * 16, 60)
    for addresses, tenants in ([], []), (["a"] * 17, []), (["a" * 81], []), (["a"], ["t"] * 17):
        with pytest.raises(LimitExceeded):
            check_ticket(addresses, tenants, 60)
