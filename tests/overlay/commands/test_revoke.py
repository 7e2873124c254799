"""``rhizome revoke``, ``token list`` and ``token revoke`` beside a running issuer."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.overlay.commands.terminal import PeerProcess, rhizome, running_peer

OFFICE = ("--tenant", "office")


def status_with(base_url: str, key: str) -> int:
    """The HTTP status of a question that is asked with a key."""
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}).encode()
    request = urllib.request.Request(  # noqa: S310 - loopback
        f"{base_url}/chat/completions", body, {"Authorization": f"Bearer {key}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_token_is_listed_without_its_key_and_refused_once_it_is_revoked(
    issuer: PeerProcess,
) -> None:
    made = issuer.run("token create", *OFFICE, "--name", "lost-phone", "--json").worked().json
    assert status_with(made["base_url"], made["api_key"]) == 200
    shown = issuer.run("token list").worked().out
    (line,) = [each for each in shown.splitlines() if made["token_id"] in each]
    assert {"office", "lost-phone"} <= set(line.split())
    assert made["api_key"] not in shown
    done = issuer.run("token revoke", made["token_id"], "--reason", "lost").worked()
    assert done.out == (f"token {made['token_id']} (lost-phone) is revoked; no other peer is up\n")
    assert status_with(made["base_url"], made["api_key"]) == 401
    again = issuer.run("token revoke", made["api_key"]).worked()
    assert again.out == f"token {made['token_id']} (lost-phone) was revoked before\n"
    listed = issuer.run("token list", "--json").worked().json["tokens"]
    assert [row["revoked"] for row in listed if row["token_id"] == made["token_id"]] == [True]
    assert "revoked" in issuer.run("token list").worked().out
    assert made["api_key"] not in issuer.log


def test_a_revoked_ticket_admits_nobody(issuer: PeerProcess, tmp_path: Path) -> None:
    invited = issuer.run("invite", "--json").worked().json
    reply = issuer.run("revoke", invited["ticket_id"], "--json").worked().json
    assert reply == {
        "type": "revoke",
        "kind": "ticket",
        "id": invited["ticket_id"],
        "name": "",
        "already": False,
        "peers": 0,
    }
    line = rhizome("join", invited["ticket"], "--home", str(tmp_path / "h")).failed(1)
    assert "revoked" in line
    whole = issuer.run("invite", "--json").worked().json
    named = issuer.run("revoke", whole["ticket"]).worked().out
    assert named.startswith(f"ticket {whole['ticket_id']} is revoked")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("nobody",), "'nobody' is no PeerId, ticket, token, or id of one"),
        (("0d" * 16,), "no token, ticket or issuer of that id is known here"),
        (("rhz1abc",), "that ticket cannot be read"),
        (("nobody", "--as", "peer"), "'nobody' is no PeerId"),
        (("x", "--reason", "r" * 129), "too large"),
        (("x" * 9000,), "too large"),
    ],
)
def test_what_cannot_be_revoked_is_one_line(
    issuer: PeerProcess, words: tuple[str, ...], line: str
) -> None:
    before = issuer.status()["revocations"]
    assert line in issuer.run("revoke", *words).failed(2)
    assert issuer.status()["revocations"] == before


def test_a_kind_that_is_none_is_named_beside_those_that_are(issuer: PeerProcess) -> None:
    ran = issuer.run("revoke", "x", "--as", "tenant")
    assert ran.code == 2
    assert "'peer', 'token', 'ticket', 'issuer'" in ran.err


def test_an_id_of_another_issuer_is_taken_where_its_kind_is_said(issuer: PeerProcess) -> None:
    before = issuer.status()["revocations"]
    done = issuer.run("revoke", "0e" * 16, "--as", "token").worked()
    assert done.out.startswith(f"token {'0e' * 16} is revoked")
    assert issuer.status()["revocations"] == before + 1
    assert "no token of that id" in issuer.run("token revoke", "0f" * 16).failed(2)


def test_what_is_revoked_is_listed_newest_first(issuer: PeerProcess) -> None:
    issuer.run("revoke", "1a" * 16, "--as", "ticket", "--reason", "first of two").worked()
    issuer.run("revoke", "1b" * 16, "--as", "ticket").worked()
    lines = issuer.run("revoke", "--list").worked().out.splitlines()
    assert lines[0].endswith("1b" * 16)
    assert lines[1].endswith(f"{'1a' * 16}  first of two")
    listed = issuer.run("revoke", "--list", "--json").worked().json
    assert listed["total"] == len(listed["revocations"]) == issuer.status()["revocations"]
    newest = listed["revocations"][0]
    assert (newest["id"], newest["reason"]) == ("1b" * 16, "")
    assert set(newest) == {"id", "since_unix_s", "reason", "issuer"}
    for words in ((), ("x", "--list")):
        assert "name what to revoke, or give --list alone" in issuer.run("revoke", *words).err


def test_this_host_itself_is_revoked_only_by_who_insists(issuer: PeerProcess) -> None:
    me = issuer.status()["peer_id"]
    for subject in (me, me[-8:]):
        assert "that is this host itself" in issuer.run("revoke", subject).failed(2)
    assert not issuer.status()["revoked"]


def test_an_issuer_is_revoked_only_by_who_insists_and_takes_its_tenants_with_it(
    home: Path,
) -> None:
    rhizome("init", "--home", str(home)).worked()
    with running_peer(home) as peer:
        made = peer.run("token create", "--json").worked().json
        assert status_with(made["base_url"], made["api_key"]) == 200
        issuer_id = json.loads(token_header(made["api_key"]))["kid"]
        assert "all hosts that it has admitted" in peer.run("revoke", issuer_id).failed(2)
        assert peer.status()["tenants"] == ["default"]
        done = peer.run("revoke", issuer_id, "--yes").worked()
        assert done.out.startswith(f"issuer {issuer_id} is revoked")
        status = peer.status()
        assert status["revoked"]
        assert status["tenants"] == []
        assert "revoked: no other peer takes it in" in peer.run("status").worked().out
        assert status_with(made["base_url"], made["api_key"]) == 401


def token_header(token: str) -> bytes:
    part = token.split(".", maxsplit=1)[0]
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def test_revocations_and_the_list_survive_a_restart(home: Path) -> None:
    rhizome("init", "--home", str(home)).worked()
    with running_peer(home) as peer:
        lost, kept = (peer.run("token create", "--json").worked().json for _ in range(2))
        peer.run("token revoke", lost["token_id"]).worked()
        peer.process.kill()
        peer.process.wait(20)
    with running_peer(home) as peer:
        base_url = f"{peer.status()['http'][0]}/v1"
        assert status_with(base_url, lost["api_key"]) == 401
        assert status_with(base_url, kept["api_key"]) == 200
        listed = peer.run("token list", "--json").worked().json["tokens"]
        revoked = {row["token_id"]: row["revoked"] for row in listed}
        assert revoked == {lost["token_id"]: True, kept["token_id"]: False}
