"""``rhizome ca root rotate`` and ``status``: every step, every refusal, and every write cut off."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from overlay.commands import ca, ca_keys
from overlay.commands.ca_rotation import status_of
from overlay.errors import HomeError, StorageFull
from overlay.founding import found_overlay
from overlay.home import Home, HomeFile
from overlay.identity import load_identity, read_bundles
from overlay.root import authority_in, seal
from overlay.rotation import roots_in
from overlay.storage import SqliteStorage
from overlay.system import SystemClock, SystemEntropy
from overlay.trust.book import TABLE, TrustBook, mark_of
from security.authority_state import authority_to_bytes
from security.certificate import (
    RENEWAL_GRACE_S,
    make_issuer,
    parse_issuer,
    parse_root,
    renew_issuer,
)
from security.errors import BadSeal, UntrustedIssuer
from security.keys import HostKeys
from security.peer_id import PeerId
from security.root_key import open_root, root_of
from tests.overlay.commands.terminal import WORDS, running_peer
from tests.overlay.commands.test_ca_keys import failed, ran

CLOCK, ENTROPY = SystemClock(), SystemEntropy()
DAY_S = 86_400.0


@pytest.fixture
def sealed(home: Path) -> Home:
    folder = Home.create(home)
    found_overlay(folder, ["default"], CLOCK, ENTROPY)
    seal(folder, WORDS, ENTROPY)
    return folder


class Ca:
    """The commands on one folder."""

    def __init__(self, folder: Home, words: str) -> None:
        self._common = ("--home", str(folder.path), "--passphrase-file", words)

    def rotate(self, *flags: str) -> str:
        done = ran(ca_keys.root, "rotate", *flags, *self._common)
        assert done.exit_code == 0, (done.output, done.exception)
        return done.output

    def refused(self, *flags: str) -> str:
        return str(failed(ca_keys.root, "rotate", *flags, *self._common))

    def renew(self, *flags: str) -> None:
        done = ran(ca_keys.issuer, "renew", *flags, *self._common)
        assert done.exit_code == 0, (done.output, done.exception)


def enrolled(folder: Home) -> PeerId:
    """One more host of this issuer."""
    keys = HostKeys.generate(ENTROPY.secret)
    authority, _ = authority_in(folder).enrol(
        keys.peer_id, keys.sealing_public, (), ENTROPY.secret, CLOCK.unix_s()
    )
    folder.write(HomeFile.AUTHORITY, authority_to_bytes(authority))
    return keys.peer_id


def tells(folder: Home, peer_id: PeerId, *bundles: bytes, leaf_ends_s: float = DAY_S) -> None:
    """That host says that it has these bundles."""
    storage = SqliteStorage(folder.database_path)
    book = TrustBook(load_identity(folder).trust, storage.read(TABLE))
    marks, ends = set(map(mark_of, bundles)), int(CLOCK.unix_s() + leaf_ends_s)
    book.note_taken(peer_id, marks, ends)
    storage.write(TABLE, dict(book.rows()))
    storage.close()


def test_a_rotation_from_its_beginning_to_its_end(sealed: Home, words: str) -> None:
    ca, old = Ca(sealed, words), sealed.need(HomeFile.ROOT)
    host = enrolled(sealed)
    assert status_of(sealed).next == "nothing"
    assert "root-next.key to two media" in ca.rotate()
    assert roots_in(sealed).in_force == (old, root_of(sealed.need(HomeFile.NEXT_ROOT_KEY)))
    status = status_of(sealed)
    assert (status.phase, status.hosts_lacking) == ("overlap", [host])
    assert status.issuers_lacking == [authority_in(sealed).issuer.issuer_id]
    assert "wait until every host" in status.next
    assert f"have not taken the new one: {host}" in ca.refused("--drop")
    tells(sealed, host, *read_bundles(sealed))
    assert "rhizome ca issuer renew" in status_of(sealed).next
    assert "issuers without its certificate" in ca.refused("--drop")
    ca.renew()
    authority = authority_in(sealed)
    assert parse_issuer(authority.issuer.der, roots_in(sealed).newest)
    assert status_of(sealed).next == "rhizome ca root rotate --drop"
    ca.rotate("--drop")
    new = sealed.need(HomeFile.ROOT_KEY)
    assert roots_in(sealed).in_force == (root_of(new),)
    assert sealed.read(HomeFile.NEXT_ROOT_KEY) is None
    status = status_of(sealed)
    assert (status.phase, status.number, status.next) == ("one root", 3, "nothing")
    assert load_identity(sealed).trust.overlay_id == parse_root(old).overlay_id
    ca.rotate()
    ca.renew()
    ca.rotate("--drop", "--anyway")
    assert roots_in(sealed).number == 5


def test_hosts_of_other_issuers_that_have_asked_here_are_waited_for(
    sealed: Home, words: str
) -> None:
    """Until their last certificate cannot be renewed any more."""
    there, gone = (HostKeys.generate(ENTROPY.secret).peer_id for _ in range(2))
    tells(sealed, there)
    tells(sealed, gone, leaf_ends_s=-RENEWAL_GRACE_S - 1)
    ca = Ca(sealed, words)
    ca.rotate()
    ca.renew()
    assert status_of(sealed).hosts_lacking == [there]
    assert f"have not taken the new one: {there}" in ca.refused("--drop")
    tells(sealed, there, *read_bundles(sealed))
    assert status_of(sealed).next == "rhizome ca root rotate --drop"
    ca.rotate("--drop")


def test_an_issuer_of_another_host_is_waited_for_until_it_is_known_to_be_certified(
    sealed: Home, words: str
) -> None:
    root = open_root(sealed.need(HomeFile.ROOT_KEY), WORDS)
    second = make_issuer(root, ENTROPY.secret, CLOCK.unix_s())
    storage = SqliteStorage(sealed.database_path)

    def learns(der: bytes) -> None:
        book = TrustBook(load_identity(sealed).trust, storage.read(TABLE))
        book.learn(issuers=[der])
        storage.write(TABLE, dict(book.rows()))

    learns(second.der)
    ca_commands = Ca(sealed, words)
    ca_commands.rotate()
    ca_commands.renew()
    assert status_of(sealed).issuers_lacking == [second.issuer_id]
    assert second.issuer_id in ca_commands.refused("--drop")
    new = open_root(sealed.need(HomeFile.NEXT_ROOT_KEY), WORDS)
    learns(renew_issuer(new, second, ENTROPY.secret, CLOCK.unix_s()).der)
    assert status_of(sealed).next == "rhizome ca root rotate --drop"
    ca_commands.rotate("--drop")
    storage.close()


def test_both_keys_may_be_on_media(sealed: Home, words: str, tmp_path: Path) -> None:
    ca = Ca(sealed, words)

    def moved(file: HomeFile) -> str:
        at = tmp_path / f"medium-{file.value}"
        at.write_bytes(sealed.need(file))
        sealed.remove(file)
        return str(at)

    old = moved(HomeFile.ROOT_KEY)
    assert "holds no root.key" in ca.refused()
    ca.rotate("--root-key", old)
    new = moved(HomeFile.NEXT_ROOT_KEY)
    assert "holds no root-next.key" in str(
        failed(ca_keys.issuer, "renew", "--home", str(sealed.path), "--passphrase-file", words)
    )
    assert "not the newest in force" in str(
        failed(
            ca_keys.issuer,
            "renew",
            *("--home", str(sealed.path), "--passphrase-file", words, "--root-key", old),
        )
    )
    ca.renew("--root-key", new)
    ca.rotate("--drop", "--root-key", old, "--new-root-key", new)
    assert roots_in(sealed).number == 3
    assert sealed.read(HomeFile.ROOT_KEY) is None


def test_the_new_key_may_be_on_a_medium_from_its_beginning(
    sealed: Home, words: str, tmp_path: Path
) -> None:
    """The folder's own key is a former root's then, and is said to be."""
    ca, medium = Ca(sealed, words), tmp_path / "medium.key"
    ca.rotate()
    medium.write_bytes(sealed.need(HomeFile.NEXT_ROOT_KEY))
    sealed.remove(HomeFile.NEXT_ROOT_KEY)
    assert "to two media" not in ca.rotate()
    assert "with --new-root-key FILE" in ca.refused("--drop", "--anyway")
    gone = str(tmp_path / "gone.key")
    words_of_it = ca.refused("--drop", "--anyway", "--new-root-key", gone)
    assert words_of_it.startswith("--new-root-key: ")
    ca.renew("--root-key", str(medium))
    assert "root.key here is a former root's, destroy it" in ca.rotate(
        "--drop", "--new-root-key", str(medium)
    )
    assert "destroy root.key here" in status_of(sealed).next
    shown = ran(ca_keys.issuer, "status", "--home", str(sealed.path)).output
    assert "away; root.key here is a former root's" in shown
    assert "destroy it" in ca.rotate("--drop")
    sealed.remove(HomeFile.ROOT_KEY)
    assert status_of(sealed).next == "nothing"
    assert "its key is not here\n" in ca.rotate("--drop")


@pytest.mark.parametrize("writes", [1, 2])
def test_no_rotation_begins_before_the_end_of_another_is_complete(
    sealed: Home, words: str, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    ca = Ca(sealed, words)
    ca.rotate()
    with monkeypatch.context() as patch:
        cut_off_after(patch, writes)
        flags = ("--drop", "--anyway", "--home", str(sealed.path), "--passphrase-file", words)
        assert isinstance(ran(ca_keys.root, "rotate", *flags).exception, PowerCut)
    for _ in range(2):
        assert "rhizome ca root rotate --drop once more" in ca.refused()
    assert "its key is in root.key" in ca.rotate("--drop")
    assert roots_in(sealed).number == 3


def test_what_is_shown_as_json(sealed: Home, words: str) -> None:
    Ca(sealed, words).rotate()
    done = ran(ca_keys.root, "status", "--home", str(sealed.path), "--json")
    shown = json.loads(done.output)
    assert (shown["phase"], shown["number"], len(shown["roots"])) == ("overlap", 2, 2)
    assert [each["number"] for each in shown["roots"]] == [1, 2]
    exported = ran(ca.command, "export", "--home", str(sealed.path)).output
    assert exported.count("BEGIN CERTIFICATE") == 2
    plain = ran(ca_keys.root, "status", "--home", str(sealed.path)).output
    assert "overlap" in plain
    assert "next" in plain


def test_what_is_refused(sealed: Home, words: str, tmp_path: Path, home: Path) -> None:
    ca = Ca(sealed, words)
    assert "no rotation is under way" in ca.refused("--drop")
    assert "go with --drop" in ca.refused("--anyway")
    wrong = tmp_path / "wrong"
    wrong.write_text("another passphrase\n")
    flags = ("--home", str(home), "--passphrase-file", str(wrong))
    assert isinstance(failed(ca_keys.root, "rotate", *flags), BadSeal)
    assert roots_in(sealed).number == 0
    other = Home.create(tmp_path / "other")
    found_overlay(other, ["default"], CLOCK, ENTROPY)
    assert "run 'rhizome ca root seal' first" in Ca(other, words).refused()
    seal(other, WORDS, ENTROPY)
    assert "not of the root that is in force" in ca.refused(
        "--root-key", str(other.path / HomeFile.ROOT_KEY.value)
    )
    with running_peer(home):
        assert "is in use by process" in ca.refused()


class PowerCut(Exception):
    """The machine went off in the middle of a command."""


def cut_off_after(patch: pytest.MonkeyPatch, writes: int) -> None:
    """From now on so many writes and removals are made, and the next one ends it all."""
    left = writes

    def cut(do: Callable[..., None]) -> Callable[..., None]:
        def instead(*given: object) -> None:
            nonlocal left
            if not left:
                raise PowerCut
            left -= 1
            do(*given)

        return instead

    patch.setattr(Home, "write", cut(Home.write))
    patch.setattr(Home, "remove", cut(Home.remove))


@pytest.mark.parametrize("writes", range(3))
@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_rotation_that_is_cut_off_anywhere_is_completed_by_the_same_command(
    sealed: Home, words: str, monkeypatch: pytest.MonkeyPatch, step: int, writes: int
) -> None:
    """And no two bundles of one number are ever seen."""
    flags = ("--home", str(sealed.path), "--passphrase-file", words)
    steps = (
        (ca_keys.root, "rotate"),
        (ca_keys.issuer, "renew"),
        (ca_keys.root, "rotate", "--drop", "--anyway"),
    )
    seen: dict[int, set[bytes]] = {}

    def run(number: int) -> None:
        try:
            done = ran(*steps[number], *flags)
            if done.exception is not None:
                raise done.exception
        finally:
            for bundle in roots_in(sealed).chain:
                seen.setdefault(bundle.number, set()).add(bundle.data)
            load_identity(sealed)

    for before in range(step):
        run(before)
    try:
        with monkeypatch.context() as patch:
            cut_off_after(patch, writes)
            run(step)
    except PowerCut:
        if roots_in(sealed).number == 3:
            assert "--drop once more" in status_of(sealed).next
        run(step)
    else:
        assert writes >= WRITES[step]
    for after in range(step + 1, len(steps)):
        run(after)
    assert {number: len(found) for number, found in seen.items()} == {2: 1, 3: 1}
    assert status_of(sealed).next == "nothing"
    assert open_root(sealed.need(HomeFile.ROOT_KEY), WORDS).der == roots_in(sealed).newest


WRITES = (2, 1, 3)
"""Of each step: the key and the bundle; the issuer's state; the bundle, and the key's new place."""


def test_a_begun_rotation_whose_bundle_was_not_written_says_so(
    sealed: Home, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Home.write

    def full(self: Home, file: HomeFile, content: bytes) -> None:
        if file is HomeFile.ROOTS:
            raise StorageFull("no space is left")
        write(self, file, content)

    with monkeypatch.context() as patch:
        patch.setattr(Home, "write", full)
        assert "no space" in Ca(sealed, words).refused()
    key = sealed.need(HomeFile.NEXT_ROOT_KEY)
    assert "rhizome ca root rotate once more" in status_of(sealed).next
    Ca(sealed, words).rotate()
    assert sealed.need(HomeFile.NEXT_ROOT_KEY) == key


def test_a_folder_whose_issuer_was_let_go_still_opens_and_shows_what_it_has(
    sealed: Home, words: str
) -> None:
    """It was off in the overlap: its issuer's next certificate is still to come."""
    ca = Ca(sealed, words)
    ca.rotate()
    ca.rotate("--drop", "--anyway")
    identity = load_identity(sealed)
    assert not identity.trust.issuers
    assert identity.credentials.roots == roots_in(sealed).in_force
    with pytest.raises(UntrustedIssuer):
        identity.trust.leaf(identity.leaf)


def test_a_folder_with_an_issuer_of_another_root_does_not_open(sealed: Home, home: Path) -> None:
    other = Home.create(home.parent / "other")
    found_overlay(other, ["default"], CLOCK, ENTROPY)
    sealed.write(HomeFile.ISSUER, other.need(HomeFile.ISSUER))
    with pytest.raises((UntrustedIssuer, HomeError)):
        load_identity(sealed)
