"""``rhizome join``: a ticket works once; each way in which it fails says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from overlay.control.handler import NOT_AN_ISSUER
from overlay.home import Home, HomeFile
from overlay.identity import load_identity
from security.ticket import Ticket
from tests.overlay.commands.terminal import PeerProcess, rhizome, running_peer, until


def ticket_of(peer: PeerProcess, *words: str) -> str:
    return peer.run("invite", *words).worked().out.strip()


def test_a_second_host_needs_two_commands_and_answers_from_the_first_ones_cache(
    issuer: PeerProcess, home: Path
) -> None:
    ran = rhizome("join", ticket_of(issuer), "--home", str(home)).worked()
    assert "tenants: office, research" in ran.out
    assert load_identity(Home(home)).trust.overlay_id == issuer.status()["overlay_id"]
    address = issuer.status()["addresses"][0]
    with running_peer(home, "--bootstrap", address, "--engine", "none") as peer:
        until(lambda: peer.status()["models"] == ["toy"])
        known = peer.status()["peers"]
        assert [each["peer_id"] for each in known] == [issuer.status()["peer_id"]]
        until(lambda: peer.status()["peers"][0]["rtt_ms"] is not None)
        text = "The river Lanner rises on Mount Ashby and flows north to the sea. " * 4
        ask = ("ask", text, "--json", "--tenant", "office", "--max-tokens", "2", "--seed", "1")
        first = issuer.run(*ask).worked().json
        second = peer.run(*ask).worked().json
        assert second["served_by"] == issuer.status()["peer_id"]
        assert second["hops"] == 1
        assert second["text"] == first["text"]
        assert second["cached_tokens"] > second["prompt_tokens"] - 32
        table = peer.run("status").worked().out
        assert address in table
        assert "/4  " in table, "slots in use are told as of a moment ago"
        told = peer.run("explain").worked().out
        assert "(here)" not in told, "a host without an engine is no candidate"
        assert "came true: length" in told
        only = peer.run("invite").failed(2)
        assert only == NOT_AN_ISSUER
        assert peer.run("token create", "--tenant", "office").failed(2) == only
        peer.run("leave").worked()
        assert peer.ended() == 0
        until(lambda: issuer.status()["peers"] == [])


def test_a_ticket_may_come_from_standard_input_and_be_broken_into_lines(
    issuer: PeerProcess, home: Path
) -> None:
    text = ticket_of(issuer, "--tenant", "office")
    lines = "\n".join(text[at : at + 60] for at in range(0, len(text), 60)) + "\n"
    ran = rhizome("join", "-", "--home", str(home), text=lines).worked()
    assert "tenants: office\n" in ran.out
    assert len(Home(home).read_epochs()) == 1


def test_a_ticket_is_good_once(issuer: PeerProcess, home: Path, tmp_path: Path) -> None:
    text = ticket_of(issuer)
    rhizome("join", text, "--home", str(home)).worked()
    second = tmp_path / "second"
    line = rhizome("join", text, "--home", str(second)).failed(1)
    assert line.startswith("the ticket has been used: make a new one with 'rhizome invite'")
    assert not Home(second).is_member
    rhizome("join", ticket_of(issuer), "--home", str(second)).worked()


def test_a_failed_ticket_leaves_the_folder_free_for_another_overlay(
    issuer: PeerProcess, other_overlay: PeerProcess, home: Path, tmp_path: Path
) -> None:
    used = ticket_of(issuer)
    rhizome("join", used, "--home", str(tmp_path / "first")).worked()
    rhizome("join", used, "--home", str(home)).failed(1)
    rhizome("join", ticket_of(other_overlay), "--home", str(home)).worked()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "that is not a ticket"),
        ("nonsense", "that is not a ticket"),
        ("\udcff", "that is not a ticket"),
        ("rhz9abcdefgh", "the ticket is of version 9"),
        ("rhz1" + "a" * 9000, "too long for a ticket"),
    ],
)
def test_what_is_no_ticket_is_refused_before_anything_is_made(
    home: Path, text: str, words: str
) -> None:
    assert words in rhizome("join", text, "--home", str(home)).failed(1)
    assert not home.exists()


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"rhz1\xff"])
def test_bytes_on_standard_input_are_refused(home: Path, data: bytes) -> None:
    line = rhizome("join", "-", "--home", str(home), text=data).failed(2)
    assert line == "standard input is not UTF-8 text"
    assert not home.exists()


def test_truncated_mistyped_and_expired_tickets_are_told_apart(
    issuer: PeerProcess, home: Path
) -> None:
    text = ticket_of(issuer)
    for size in (5, 20, len(text) // 2, len(text) - 1):
        assert "is cut off: copy all of it" in rhizome(
            "join", text[:size], "--home", str(home)
        ).failed(1)
    swapped = text[:50] + ("a" if text[50] != "a" else "b") + text[51:]
    assert "is mistyped" in rhizome("join", swapped, "--home", str(home)).failed(1)
    ended = ticket_of(issuer, "--expires", "1ms")
    line = rhizome("join", ended, "--home", str(home)).failed(1)
    assert line.startswith("the ticket ended ")
    assert "make a new one with 'rhizome invite'" in line
    assert not home.exists()


def test_a_second_join_over_a_host_is_refused_and_the_ticket_is_still_good(
    issuer: PeerProcess, other_overlay: PeerProcess, home: Path, tmp_path: Path
) -> None:
    rhizome("join", ticket_of(issuer), "--home", str(home)).worked()
    before = Home(home).need(HomeFile.LEAF)
    text = ticket_of(issuer)
    line = rhizome("join", text, "--home", str(home)).failed(1)
    assert line == f"{home} holds a host of this overlay already: start it with 'rhizome peer'"
    foreign = ticket_of(other_overlay)
    line = rhizome("join", foreign, "--home", str(home)).failed(1)
    assert line.startswith(f"{home} belongs to overlay ")
    assert line.endswith("use another folder with --home")
    assert Home(home).need(HomeFile.LEAF) == before
    rhizome("join", text, "--home", str(tmp_path / "a")).worked()
    rhizome("join", foreign, "--home", str(tmp_path / "b")).worked()


def test_every_address_is_tried_and_each_failure_told(
    issuer: PeerProcess, other_overlay: PeerProcess, home: Path
) -> None:
    ticket = Ticket.parse(ticket_of(issuer))
    foreign = Ticket.parse(ticket_of(other_overlay)).addresses[0]
    overlay = issuer.status()["addresses"][0]
    wrong = replace(ticket, addresses=("127.0.0.1:1", foreign, "nonsense", overlay))
    line = rhizome("join", wrong.to_text(), "--home", str(home)).failed(1)
    assert line.startswith("no address of the ticket answers; is the issuer's peer running?")
    for address in wrong.addresses:
        assert f" {address}: " in line
    assert not Home(home).is_member
    right = replace(wrong, addresses=(*wrong.addresses, *ticket.addresses))
    rhizome("join", right.to_text(), "--home", str(home)).worked()


def test_a_ticket_that_the_issuer_never_made_is_refused(issuer: PeerProcess, home: Path) -> None:
    ticket = Ticket.parse(ticket_of(issuer))
    forged = replace(ticket, secret=bytes(32))
    line = rhizome("join", forged.to_text(), "--home", str(home)).failed(1)
    assert line.startswith("the issuer does not know that ticket")


def test_tickets_are_never_logged(issuer: PeerProcess, home: Path) -> None:
    text = ticket_of(issuer)
    rhizome("join", text, "--home", str(home)).worked()
    rhizome("join", text, "--home", str(home.with_name("again"))).failed(1)
    assert text[:40] not in issuer.log
    assert Ticket.parse(text).secret.hex() not in issuer.log


def test_invite_as_json_and_its_bounds(issuer: PeerProcess) -> None:
    reply = issuer.run("invite", "--json", "--tenant", "office", "--expires", "1h").worked().json
    fields = ["expires_unix_s", "http_names", "role", "tenants", "ticket", "ticket_id", "type"]
    assert sorted(reply) == fields
    assert reply["role"] == Ticket.parse(reply["ticket"]).role == "peer"
    assert reply["tenants"] == ["office"]
    assert Ticket.parse(reply["ticket"]).expires_unix_s == reply["expires_unix_s"]
    assert Ticket.parse(reply["ticket"]).ticket_id == reply["ticket_id"]
    ran = issuer.run("invite").worked()
    assert ran.out.count("\n") == 1, "standard output is the ticket alone, to be piped"
    assert "good for one host until" in ran.err
    assert "role: peer, tenants: " in ran.err
    assert f"rhizome revoke {Ticket.parse(ran.out).ticket_id}" in ran.err
    assert "is kept here; there is office, research" in issuer.run(
        "invite", "--tenant", "nothing"
    ).failed(2)
    assert issuer.run("invite", "--expires", "0s").failed(2) == "--expires: must be more than 0"
    assert issuer.run("invite", "--expires", "5").failed(2).startswith("--expires: '5' needs a")
    assert "at most 30 days" in issuer.run("invite", "--expires", "90d").failed(2)
    assert "too large" in issuer.run("invite", "--tenant", "x" * 300).failed(2)
