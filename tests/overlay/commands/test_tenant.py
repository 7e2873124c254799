"""``rhizome tenant``: the issuer's host changes rosters, every host sees its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from overlay.control.tenants import NOT_THE_STEWARD
from tests.overlay.commands.terminal import PeerProcess, rhizome, running_peer, until

STRANGER = "12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5"


@contextmanager
def founded(tmp_path: Path, *tenants: str) -> Iterator[PeerProcess]:
    home = tmp_path / "first"
    words = [word for tenant in tenants for word in ("--tenant", tenant)]
    rhizome("init", "--home", str(home), *words).worked()
    with running_peer(home) as peer:
        yield peer


@contextmanager
def joined(issuer: PeerProcess, home: Path, *tenants: str) -> Iterator[PeerProcess]:
    words = [word for tenant in tenants for word in ("--tenant", tenant)]
    ticket = issuer.run("invite", *words).worked().out.split()[0]
    rhizome("join", ticket, "--home", str(home)).worked()
    address = issuer.status()["addresses"][0]
    with running_peer(home, "--bootstrap", address) as peer:
        until(lambda: peer.status()["peers"])
        yield peer


def tenants_of(peer: PeerProcess) -> dict[str, dict[str, Any]]:
    listed = peer.run("tenant list", "--json").worked().json["tenants"]
    return {tenant["name"]: tenant for tenant in listed}


def epoch_of(peer: PeerProcess, tenant: str) -> int | None:
    found = tenants_of(peer).get(tenant)
    return None if found is None else found["epoch"]


def test_a_tenant_is_made_and_changed_and_every_host_sees_its_own(tmp_path: Path) -> None:
    with founded(tmp_path, "office") as first, joined(first, tmp_path / "second", "office") as far:
        second = far.status()["peer_id"]
        made = first.run("tenant create", "lab").worked().out
        assert made == "tenant lab made: epoch 1, version 2, 1 members\n"
        lab = tenants_of(first)["lab"]
        assert set(lab) == {
            *("type", "name", "tenant_id", "epoch", "version", "public"),
            *("kept", "member", "members"),
        }
        assert (lab["kept"], lab["member"], lab["public"]) == (True, True, False)
        assert set(tenants_of(far)) == {"office"}, "who is no member learns not even its name"
        # It is enrolled, so that its sealing key is known.
        added = first.run("tenant add", "lab", second, "--json").worked().json
        assert second in added["members"]
        until(lambda: set(tenants_of(far)) == {"lab", "office"})
        assert tenants_of(far)["lab"]["kept"] is False
        assert far.run("ask", "hello", "--tenant", "lab", "--max-tokens", "1").worked()
        removed = first.run("tenant remove", "lab", second).worked().out
        assert removed == "tenant lab is without the host: epoch 2, version 1, 1 members\n"
        until(lambda: set(tenants_of(far)) == {"office"})
        line = far.run("ask", "hello", "--tenant", "lab").failed(1)
        assert line.startswith("this host serves no tenant 'lab'; it serves: office")
        before = tenants_of(first)["office"]
        for words, epoch in (((), 2), (("--hard",), 3)):
            first.run("tenant rotate", "office", *words).worked()
            until(lambda: epoch_of(far, "office") == epoch)  # noqa: B023 - called at once
            assert tenants_of(first)["office"]["members"] == before["members"]
            assert far.run("ask", "hi", "--tenant", "office", "--max-tokens", "1").worked()
        shown = first.run("tenant list").worked().out
        assert "lab  epoch 2, version 1  (kept here)\n" in shown
        assert f"  {second}\n" in shown


def test_what_a_steward_keeps_outlives_its_peer(tmp_path: Path) -> None:
    with founded(tmp_path, "office") as first:
        first.run("tenant create", "lab", "--empty").worked()
        first.run("tenant rotate", "office", "--hard").worked()
        before = tenants_of(first)
        assert before["lab"]["members"] == []
        assert not before["lab"]["member"]
    with running_peer(first.home) as again:
        assert tenants_of(again) == before
        assert "no member" in again.run("tenant list").worked().out
        assert again.run("ask", "hi", "--tenant", "office", "--max-tokens", "1").worked()


def test_a_public_tenant_has_every_host_and_is_never_meant_where_it_is_not_named(
    tmp_path: Path,
) -> None:
    with founded(tmp_path, "office") as first, joined(first, tmp_path / "second", "office") as far:
        first.run("tenant create", "all", "--public").worked()
        until(lambda: "all" in tenants_of(far))
        with joined(first, tmp_path / "third") as late:
            # Invited to all tenants, which does not name a public one; it is a member all the same.
            assert set(tenants_of(late)) == {"all", "office"}
            assert tenants_of(late)["all"]["public"]
            token = first.run("token create", "--json").worked().json
            assert token["tenant"] == "office"
            assert (
                first.run("token create", "--tenant", "all", "--json").worked().json["tenant"]
                == "all"
            )
            # Not named: the tenant of one's own. Its prompts are not found in the public one.
            prompt = "what is asked at the office " * 8
            words = ("--json", "--max-tokens", "1")
            assert late.run("ask", prompt, *words).worked().json["cached_tokens"] == 0
            assert late.run("ask", prompt, *words).worked().json["cached_tokens"] > 0
            public = ("--tenant", "all", *words)
            assert late.run("ask", prompt, *public).worked().json["cached_tokens"] == 0
            assert late.run("ask", prompt, *public).worked().json["cached_tokens"] > 0


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (("create", "research"), 2, "there is a tenant 'research' already"),
        (("create", "no name"), 2, "a tenant name has 1 to 64 letters"),
        (("add", "nothing", STRANGER), 2, "no tenant 'nothing' is kept here; there is office"),
        (("add", "office", STRANGER), 2, "this issuer has enrolled no such host"),
        (("add", "office", "12D3"), 2, "that is no PeerId: give the whole one"),
        (("remove", "office", STRANGER), 2, "that host is no member of tenant office"),
        (("remove", "nothing", STRANGER), 2, "no tenant 'nothing' is kept here"),
        (("rotate", "nothing"), 2, "no tenant 'nothing' is kept here; there is office"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_changes_nothing(
    issuer: PeerProcess, words: tuple[str, ...], code: int, line: str
) -> None:
    before = tenants_of(issuer)
    first, *rest = words
    assert issuer.run(f"tenant {first}", *rest).failed(code).startswith(line)
    assert tenants_of(issuer) == before


def test_only_the_issuers_host_changes_rosters(issuer: PeerProcess, tmp_path: Path) -> None:
    with joined(issuer, tmp_path / "member", "office") as member:
        peer_id = member.status()["peer_id"]
        for words in (
            ("create", "x"),
            ("add", "office", peer_id),
            ("remove", "office", peer_id),
            ("rotate", "office"),
        ):
            first, *rest = words
            assert member.run(f"tenant {first}", *rest).failed(2) == NOT_THE_STEWARD


def test_without_a_running_peer_it_is_one_line(home: Path) -> None:
    for words in (("list",), ("create", "x"), ("rotate", "x")):
        line = rhizome("tenant", *words, "--home", str(home)).failed(1)
        assert line.startswith(f"there is no {home}: run 'rhizome init'")


def test_a_removal_by_an_issuer_restored_from_an_old_copy_is_not_in_vain(tmp_path: Path) -> None:
    home, far_home = tmp_path / "first", tmp_path / "second"
    with founded(tmp_path, "office") as first, joined(first, far_home, "office"):
        old = (home / "authority.bin").read_bytes()
        for epoch in (2, 3, 4):
            first.run("tenant rotate", "office").worked()
            assert epoch_of(first, "office") == epoch
    (home / "authority.bin").write_bytes(old)
    with running_peer(home) as first:
        address = first.status()["addresses"][0]
        with running_peer(far_home, "--bootstrap", address) as far:
            until(lambda: far.status()["peers"])
            second = far.status()["peer_id"]
            first.run("tenant remove", "office", second).worked()
            until(lambda: tenants_of(far) == {})
            assert epoch_of(first, "office") > 4
    assert "old copy" in first.log
