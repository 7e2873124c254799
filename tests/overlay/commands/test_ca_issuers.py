"""``rhizome ca issuer request|add|install|list``: a second issuer, in this process and as peers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from overlay.errors import HomeError
from overlay.founding import found_overlay
from overlay.home import Home, HomeFile
from overlay.identity import Identity, load_identity, store_identity
from overlay.issuers import answer, check_request, install, known_issuers, request_here
from overlay.revocation.exchange import TABLE, Exchange
from overlay.root import authority_in, root_key_in
from overlay.storage import SqliteStorage
from overlay.system import SystemClock, SystemEntropy
from overlay.trust.book import TrustBook
from security.authority_state import authority_to_bytes
from security.certificate import make_issuer, parse_issuer, parse_leaf
from security.errors import SecurityError, UntrustedIssuer, WrongOverlay
from security.hosts import HostRole
from security.keys import HostKeys
from security.revocation import make_revocation, open_revocation
from tests.overlay.commands.terminal import PeerProcess, rhizome, running_peer, until

CLOCK, ENTROPY = SystemClock(), SystemEntropy()
WORDS = "correct horse battery staple"


@pytest.fixture
def founder(tmp_path: Path) -> Home:
    folder = Home.create(tmp_path / "founder")
    found_overlay(folder, ["default"], CLOCK, ENTROPY)
    return folder


def joined(founder: Home, path: Path, role: HostRole = HostRole.ISSUER) -> Home:
    """A host that the founder has enrolled."""
    folder, keys = Home.create(path), HostKeys.generate(ENTROPY.secret)
    authority, grant = authority_in(founder).enrol(
        keys.peer_id, keys.sealing_public, (), ENTROPY.secret, CLOCK.unix_s(), role=role
    )
    founder.write(HomeFile.AUTHORITY, authority_to_bytes(authority))
    store_identity(folder, keys, grant, CLOCK.unix_s())
    return folder


def made_issuer(founder: Home, host: Home) -> Identity:
    text, issuer_id = request_here(host, ENTROPY)
    root = root_key_in(founder)
    request = check_request(text, root, founder, any_host=False)
    assert (
        install(host, answer(root, request, CLOCK, ENTROPY), CLOCK, ENTROPY).issuer_id == issuer_id
    )
    return load_identity(host)


def test_a_host_becomes_an_issuers_by_three_commands(founder: Home, tmp_path: Path) -> None:
    host = joined(founder, tmp_path / "host")
    before = load_identity(host)
    asked = rhizome("ca", "issuer", "request", "--home", str(host.path)).worked()
    again = rhizome("ca", "issuer", "request", "--home", str(host.path)).worked()
    assert asked.out.split(".")[0] == again.out.split(".")[0] == "rhizome-issuer-request-1"
    at_root = ("ca", "issuer", "add", "--home", str(founder.path))
    told = rhizome(*at_root, "-", text=asked.out).worked()
    assert before.peer_id in told.err
    assert told.err.split("issuer ")[1][:32] == asked.err.split("issuer ")[1][:32]
    done = rhizome("ca", "issuer", "install", told.out.strip(), "--home", str(host.path)).worked()
    assert "is certified until" in done.out
    after, authority = load_identity(host), authority_in(host)
    assert after.peer_id == before.peer_id
    assert parse_leaf(after.leaf).issuer_id == authority.issuer.issuer_id
    assert authority.issuer.issuer_id != authority_in(founder).issuer.issuer_id
    assert (dict(authority.tenants), set(authority.hosts)) == ({}, {after.peer_id})
    assert not authority.founded
    assert not authority.holds_root
    assert host.read(HomeFile.ISSUER_KEY) is None
    lines = {line.issuer_id: line for line in known_issuers(host, CLOCK.unix_s())}
    mine = lines[authority.issuer.issuer_id]
    assert (mine.mine, mine.renews_me, mine.revoked, mine.hosts) == (True, True, False, 1)
    shown = rhizome("ca", "issuer", "list", "--home", str(host.path), "--json").worked().json
    assert authority.issuer.issuer_id in {row["issuer_id"] for row in shown}
    assert "of this host" in rhizome("ca", "issuer", "list", "--home", str(host.path)).worked().out
    status = rhizome("ca", "issuer", "status", "--home", str(host.path), "--json").worked().json
    assert (status["root_key"], status["tenants"]) == ("away", 0)


def test_asking_again_has_the_same_issuer_certified_again(founder: Home, tmp_path: Path) -> None:
    host = joined(founder, tmp_path / "host")
    made_issuer(founder, host)
    first = authority_in(host)
    text, issuer_id = request_here(host, ENTROPY)
    assert issuer_id == first.issuer.issuer_id
    root = root_key_in(founder)
    later = SystemClock()
    later.unix_s = lambda: CLOCK.unix_s() + 86_400  # type: ignore[method-assign]
    request = check_request(text, root, founder, any_host=False)
    word = answer(root, request, later, ENTROPY)
    old = answer(root, request, CLOCK, ENTROPY)
    install(host, word, CLOCK, ENTROPY)
    second = authority_in(host)
    ends = [
        parse_issuer(each.issuer.der, each.root.der).not_after_unix_s for each in (first, second)
    ]
    assert ends[1] >= ends[0] + 86_400 - 5
    install(host, old, CLOCK, ENTROPY)
    assert authority_in(host).issuer.der == second.issuer.der, "an older answer shortens nothing"
    assert load_identity(host).issuer == second.issuer.der


class Dying:
    """A disk that takes so many changes, and then the machine is gone."""

    def __init__(self, left: int) -> None:
        self.left = left

    def __call__(self, do: Callable[..., None]) -> Callable[..., None]:
        def change(*args: object) -> None:
            if self.left == 0:
                raise HomeError("the machine is gone")
            self.left -= 1
            do(*args)

        return change


def cut_off(monkeypatch: pytest.MonkeyPatch, left: int, run: Callable[[], object]) -> bool:
    """Whether the command was cut off after so many changes of the folder."""
    disk = Dying(left)
    with monkeypatch.context() as patched:
        patched.setattr(Home, "write", disk(Home.write))
        patched.setattr(Home, "remove", disk(Home.remove))
        try:
            run()
        except HomeError:
            return True
    return False


@pytest.mark.parametrize("changes", range(6))
def test_an_installation_that_was_cut_off_is_completed(
    founder: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: int
) -> None:
    host = joined(founder, tmp_path / "host")
    peer_id, root = load_identity(host).peer_id, root_key_in(founder)
    request = check_request(request_here(host, ENTROPY)[0], root, founder, any_host=False)
    word = answer(root, request, CLOCK, ENTROPY)
    died = cut_off(monkeypatch, changes, lambda: install(host, word, CLOCK, ENTROPY))
    assert died == (changes < 5), "authority, next issuer, leaf, issuer, and the key's removal"
    assert load_identity(host).peer_id == peer_id, "its peer starts whatever was written last"
    install(host, word, CLOCK, ENTROPY)
    identity, authority = load_identity(host), authority_in(host)
    assert parse_leaf(identity.leaf).issuer_id == authority.issuer.issuer_id == request.issuer_id
    assert identity.issuer == authority.issuer.der
    assert host.read(HomeFile.ISSUER_KEY) is None


def test_a_request_whose_key_was_not_stored_was_seen_by_nobody(
    founder: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = joined(founder, tmp_path / "host")
    assert cut_off(monkeypatch, 0, lambda: request_here(host, ENTROPY))
    first, issuer_id = request_here(host, ENTROPY)
    assert request_here(host, ENTROPY)[1] == issuer_id
    assert check_request(first, root_key_in(founder), founder, any_host=False)


def test_what_the_root_does_not_sign(founder: Home, tmp_path: Path) -> None:
    root = root_key_in(founder)
    own, _ = request_here(founder, ENTROPY)
    with pytest.raises(HomeError, match="ca issuer renew"):
        check_request(own, root, founder, any_host=True)
    peer = joined(founder, tmp_path / "peer", HostRole.PEER)
    text, _ = request_here(peer, ENTROPY)
    with pytest.raises(HomeError, match="--any-host"):
        check_request(text, root, founder, any_host=False)
    assert check_request(text, root, founder, any_host=True).peer_id == load_identity(peer).peer_id
    assert check_request(text, root, None, any_host=False), "where nobody was invited"
    other = Home.create(tmp_path / "other")
    found_overlay(other, ["default"], CLOCK, ENTROPY)
    with pytest.raises(WrongOverlay):
        check_request(text, root_key_in(other), other, any_host=True)
    with pytest.raises(HomeError, match="own: run 'rhizome ca issuer add' with --root-key"):
        check_request(text, root, peer, any_host=True)
    authority, _ = authority_in(founder).revoke(load_identity(peer).peer_id, CLOCK.unix_s())
    founder.write(HomeFile.AUTHORITY, authority_to_bytes(authority))
    with pytest.raises(HomeError, match="revoked"):
        check_request(text, root, founder, any_host=False)


def test_what_is_not_installed(founder: Home, tmp_path: Path) -> None:
    host = joined(founder, tmp_path / "host")
    another = joined(founder, tmp_path / "another")
    root = root_key_in(founder)
    text, _ = request_here(another, ENTROPY)
    word = answer(root, check_request(text, root, founder, any_host=False), CLOCK, ENTROPY)
    with pytest.raises(HomeError, match="ca issuer request"):
        install(host, word, CLOCK, ENTROPY)
    request_here(host, ENTROPY)
    with pytest.raises(HomeError, match="another host's request"):
        install(host, word, CLOCK, ENTROPY)
    with pytest.raises(SecurityError, match="one word that begins with"):
        install(host, text, CLOCK, ENTROPY)
    with pytest.raises(UntrustedIssuer):
        install(founder, word, CLOCK, ENTROPY)
    assert host.read(HomeFile.AUTHORITY) is None


def test_the_root_signs_nothing_for_what_another_issuer_has_revoked(
    founder: Home, tmp_path: Path
) -> None:
    """This host's issuer has not said so itself: it stands in what its peer has heard."""
    host, root = joined(founder, tmp_path / "host"), root_key_in(founder)
    other = make_issuer(root, ENTROPY.secret, CLOCK.unix_s())
    text, issuer_id = request_here(host, ENTROPY)
    assert check_request(text, root, founder, any_host=False)
    for id_ in (load_identity(host).peer_id, issuer_id):
        heard = Home.create(tmp_path / f"heard {id_[-4:]}")
        shutil.copytree(founder.path, heard.path, dirs_exist_ok=True)
        trust = load_identity(heard).trust.with_issuer(other.der)
        said = open_revocation(make_revocation(other, id_, CLOCK.unix_s()), trust)
        storage = SqliteStorage(heard.database_path)
        storage.write(TABLE, Exchange(TrustBook(trust, {}), {}).prepare([said]).rows)
        storage.close()
        with pytest.raises(HomeError, match=f"{id_} is revoked"):
            check_request(text, root, heard, any_host=True)


def test_the_root_signs_on_a_machine_that_is_no_host(founder: Home, tmp_path: Path) -> None:
    words = tmp_path / "passphrase"
    words.write_text(WORDS + "\n")
    flags = ("--passphrase-file", str(words))
    rhizome("ca", "root", "seal", "--home", str(founder.path), *flags).worked()
    key = tmp_path / "root.key"
    (founder.path / "root.key").rename(key)
    host = joined(founder, tmp_path / "host", HostRole.PEER)
    asked = rhizome("ca", "issuer", "request", "--home", str(host.path)).worked().out.strip()
    away = ("--home", str(tmp_path / "nowhere"))
    told = rhizome("ca", "issuer", "add", asked, "--root-key", str(key), *flags, *away).worked()
    rhizome("ca", "issuer", "install", told.out.strip(), "--home", str(host.path)).worked()
    assert load_identity(host).issuer == authority_in(host).issuer.der
    said = rhizome("ca", "issuer", "add", asked, *flags, *away).failed()
    assert "rhizome init" in said or "is missing" in said


def second_issuer(first: PeerProcess, second: Path) -> None:
    """Makes a host that joins at ``first`` a second issuer's, as a person does."""
    ticket = first.run("invite", "--role", "issuer", "--json").worked().json
    assert ticket["role"] == "issuer"
    said = rhizome("join", ticket["ticket"], "--home", str(second)).worked().out
    assert "rhizome ca issuer request" in said
    asked = rhizome("ca", "issuer", "request", "--home", str(second)).worked().out
    at_root = ("ca", "issuer", "add", "-", "--home", str(first.home))
    word = rhizome(*at_root, text=asked).worked().out.strip()
    rhizome("ca", "issuer", "install", word, "--home", str(second)).worked()


def test_a_second_issuers_host_invites_and_keeps_tenants(founder: Home, tmp_path: Path) -> None:
    second, third = tmp_path / "second", tmp_path / "third"
    with running_peer(founder.path) as first:
        second_issuer(first, second)
        with running_peer(second, "--bootstrap", address_of(first)) as issuing:
            until(lambda: issuing.status()["confirmed"])
            issuing.run("tenant create", "lab").worked()
            theirs = issuing.run("invite", "--tenant", "lab", "--json").worked().json["ticket"]
            rhizome("join", theirs, "--home", str(third)).worked()
            made_by = parse_leaf(load_identity(Home(third)).leaf).issuer_id
            assert made_by == authority_in(Home(second)).issuer.issuer_id
            with running_peer(third, "--bootstrap", address_of(first)) as host:
                until(lambda: len(first.status()["peers"]) == 2)
                assert host.status()["tenants"] == ["lab"]
                known = ("ca", "issuer", "list", "--json", "--home", str(third))
                until(lambda: len(rhizome(*known).worked().json) == 2)


def test_a_host_of_a_stolen_issuer_comes_back_under_the_other_one(
    founder: Home, tmp_path: Path
) -> None:
    """Real peers, TLS and sockets: docs/operations.md, an issuer whose key is stolen."""
    second, third = tmp_path / "second", tmp_path / "third"
    old = authority_in(founder).issuer.issuer_id
    with running_peer(founder.path) as first:
        second_issuer(first, second)
        ticket = first.run("invite", "--json").worked().json["ticket"]
        rhizome("join", ticket, "--home", str(third)).worked()
        peer_id = load_identity(Home(third)).peer_id
        with (
            running_peer(second, "--bootstrap", address_of(first)) as issuing,
            running_peer(third, "--bootstrap", address_of(first)) as host,
        ):
            until(lambda: len(issuing.status()["peers"]) == len(host.status()["peers"]) == 2)
            until(lambda: issuing.status()["tenants"] == ["default"])
            known = issuing.run("ca issuer adopt", peer_id[-8:]).failed(2)
            assert "give the whole one" in known
            until(lambda: issuing.run("ca issuer adopt", peer_id).code == 0)
            told = issuing.run("ca issuer adopt", "--json", peer_id).worked().json
            assert (told["adopted"], told["already"]) == ([], [peer_id])
            new = authority_in(Home(second)).issuer.issuer_id
            issuing.run("revoke", old, "--yes").worked()
            until(lambda: parse_leaf(load_identity(Home(third)).leaf).issuer_id == new, 60)
            until(lambda: [each["peer_id"] for each in issuing.status()["peers"]] == [peer_id])
            issuing.run("tenant create", "default").worked()
            issuing.run("tenant add", "default", peer_id).worked()
            until(lambda: host.status()["tenants"] == ["default"])
            lines = {row["issuer_id"]: row for row in host.run("ca issuer list", "--json").json}
            assert lines[old]["revoked"]
            assert lines[new]["renews_me"]
    with running_peer(third, "--bootstrap", "127.0.0.1:1") as again:  # it starts as what it is now
        assert again.status()["tenants"] == ["default"]


def address_of(peer: PeerProcess) -> str:
    """Where a peer listens for others."""
    return str(peer.status()["addresses"][0])
