"""``rhizome ca root``, ``rhizome ca issuer`` and ``rhizome init --passphrase-file``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from overlay.commands import ca_keys, init
from overlay.errors import ConfigError, HomeError, OverlayError
from overlay.founding import found_overlay
from overlay.home import Home, HomeFile
from overlay.identity import load_identity
from overlay.root import authority_in, root_key_in, seal
from overlay.system import SystemClock, SystemEntropy
from security.certificate import parse_issuer
from security.errors import BadSeal, LimitExceeded, SecurityError
from security.root_key import open_root
from tests.overlay.commands.terminal import WORDS, running_peer


@pytest.fixture
def founded(home: Path) -> Home:
    folder = Home.create(home)
    found_overlay(folder, ["default"], SystemClock(), SystemEntropy())
    return folder


def ran(group: object, *flags: str, text: str = "") -> Result:
    return CliRunner().invoke(group, flags, input=text)  # type: ignore[arg-type]  # a command


def failed(group: object, *flags: str, text: str = "") -> OverlayError | SecurityError:
    """The error that is told in one line."""
    error = ran(group, *flags, text=text).exception
    assert isinstance(error, OverlayError | SecurityError), error
    return error


def test_init_keeps_the_root_apart_from_the_first_moment_on(home: Path, words: str) -> None:
    done = ran(init.command, "--home", str(home), "--passphrase-file", words)
    assert done.exit_code == 0, done.output
    assert "root.key, to be kept offline" in done.output
    folder = Home(home)
    assert not authority_in(folder).holds_root
    assert open_root(folder.need(HomeFile.ROOT_KEY), WORDS).der == folder.need(HomeFile.ROOT)
    with pytest.raises(BadSeal):
        open_root(folder.need(HomeFile.ROOT_KEY), "another passphrase")
    raw = open_root(folder.need(HomeFile.ROOT_KEY), WORDS).private.private_bytes_raw()
    assert not [file for file in home.rglob("*") if file.is_file() and raw in file.read_bytes()]
    folder.remove(HomeFile.ROOT_KEY)  # it is taken away
    with running_peer(home) as peer:
        assert peer.run("invite").worked().out.startswith("rhz1")
        assert peer.run("token create", "--name", "web").worked()


def test_init_says_what_is_wrong_with_a_passphrase(home: Path, tmp_path: Path) -> None:
    short, empty = tmp_path / "short", tmp_path / "empty"
    short.write_text("short\n")
    empty.write_text("")
    flags = ("--home", str(home), "--passphrase-file")
    assert isinstance(failed(init.command, *flags, str(short)), LimitExceeded)
    assert "is empty" in str(failed(init.command, *flags, str(empty)))
    assert "cannot be read" in str(failed(init.command, *flags, str(tmp_path / "none")))
    assert Home(home).read(HomeFile.AUTHORITY) is None
    assert ran(init.command, "--home", str(home)).exit_code == 0, "the folder is free still"
    assert authority_in(Home(home)).holds_root


def test_a_folder_of_before_is_sealed_and_its_issuer_goes_on(founded: Home, words: str) -> None:
    flags = ("--home", str(founded.path))
    raw = root_key_in(founded).private.private_bytes_raw()
    before = authority_in(founded)
    assert ran(ca_keys.root, "seal", *flags, "--passphrase-file", words).exit_code == 0
    after = authority_in(founded)
    assert (after.issuer.der, after.tenants, after.hosts) == (
        before.issuer.der,
        before.tenants,
        before.hosts,
    )
    files = [file for file in founded.path.rglob("*") if file.is_file()]
    assert not [file for file in files if raw in file.read_bytes()]
    assert load_identity(founded)
    error = failed(ca_keys.root, "seal", *flags, "--passphrase-file", words)
    assert "not in authority.bin any more" in str(error)


def test_a_crash_between_the_two_writes_loses_nothing(
    founded: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Home.write

    def dying(home: Home, file: HomeFile, content: bytes) -> None:
        if file is HomeFile.AUTHORITY:
            raise HomeError("the machine is gone")
        write(home, file, content)

    with monkeypatch.context() as patched:
        patched.setattr(Home, "write", dying)
        with pytest.raises(HomeError, match="gone"):
            seal(founded, WORDS, SystemEntropy())
    assert authority_in(founded).holds_root
    seal(founded, "another passphrase of enough", SystemEntropy())
    assert not authority_in(founded).holds_root
    assert open_root(founded.need(HomeFile.ROOT_KEY), "another passphrase of enough")


def test_another_overlays_root_key_is_not_written_over(founded: Home, tmp_path: Path) -> None:
    other = Home.create(tmp_path / "other")
    found_overlay(other, ["default"], SystemClock(), SystemEntropy(), passphrase=WORDS)
    founded.write(HomeFile.ROOT_KEY, other.need(HomeFile.ROOT_KEY))
    with pytest.raises(HomeError, match="another overlay's"):
        seal(founded, WORDS, SystemEntropy())
    assert authority_in(founded).holds_root
    assert founded.need(HomeFile.ROOT_KEY) == other.need(HomeFile.ROOT_KEY)


def test_the_issuer_is_certified_again_from_wherever_the_root_is(
    founded: Home, words: str, tmp_path: Path
) -> None:
    flags = ("--home", str(founded.path))
    assert ran(ca_keys.issuer, "renew", *flags).exit_code == 0, "the key is in the state"
    seal(founded, WORDS, SystemEntropy())
    away = tmp_path / "medium.key"
    away.write_bytes(founded.need(HomeFile.ROOT_KEY))
    typed = ran(ca_keys.issuer, "renew", *flags, text=WORDS + "\n")
    assert typed.exit_code == 0, typed.output
    assert WORDS not in typed.output
    founded.remove(HomeFile.ROOT_KEY)
    asked = (*flags, "--passphrase-file", words)
    assert "name it with --root-key FILE" in str(failed(ca_keys.issuer, "renew", *asked))
    before = authority_in(founded)
    done = ran(ca_keys.issuer, "renew", *asked, "--root-key", str(away))
    assert done.exit_code == 0, done.output
    after = authority_in(founded)
    assert after.issuer.issuer_id == before.issuer.issuer_id
    assert after.issuer.der != before.issuer.der
    assert not after.holds_root, "it is used and not kept"
    assert parse_issuer(after.issuer.der, after.root.der)
    missing = str(tmp_path / "none")
    assert isinstance(failed(ca_keys.issuer, "renew", *asked, "--root-key", missing), ConfigError)
    wrong = failed(ca_keys.issuer, "renew", *flags, "--root-key", str(away), text="no\n")
    assert isinstance(wrong, BadSeal)


def test_the_root_of_another_overlay_certifies_nobody_here(
    founded: Home, tmp_path: Path, words: str
) -> None:
    other = Home.create(tmp_path / "other")
    found_overlay(other, ["default"], SystemClock(), SystemEntropy(), passphrase=WORDS)
    before = founded.need(HomeFile.AUTHORITY)
    foreign = str(other.path / HomeFile.ROOT_KEY.value)
    flags = ("--home", str(founded.path), "--root-key", foreign, "--passphrase-file", words)
    assert "another root's" in str(failed(ca_keys.issuer, "renew", *flags))
    assert founded.need(HomeFile.AUTHORITY) == before


def test_status_says_where_the_key_is_and_when_it_is_time(founded: Home) -> None:
    flags = ("--home", str(founded.path))

    def told() -> dict[str, object]:
        found: dict[str, object] = json.loads(
            ran(ca_keys.issuer, "status", "--json", *flags).output
        )
        return found

    assert (told()["root_key"], told()["hosts"], told()["tenants"]) == ("here in clear", 1, 1)
    seal(founded, WORDS, SystemEntropy())
    assert told()["root_key"] == "here, encrypted"
    founded.remove(HomeFile.ROOT_KEY)
    assert told()["root_key"] == "away"
    assert told()["half_life_over"] is False
    shown = ran(ca_keys.issuer, "status", *flags).output
    assert "certified for 3650 days more" in shown
    assert "alarm" not in shown
    ends = authority_in(founded)
    middle_s = parse_issuer(ends.issuer.der, ends.root.der).not_after_unix_s - 4 * 365 * 86_400
    assert ca_keys.status_of(founded, middle_s).half_life_over


def test_a_host_that_issues_nothing_says_so(founded: Home) -> None:
    founded.remove(HomeFile.AUTHORITY)
    for group, word in (
        (ca_keys.root, "seal"),
        (ca_keys.issuer, "renew"),
        (ca_keys.issuer, "status"),
    ):
        error = failed(group, word, "--home", str(founded.path))
        assert "is no issuer's folder: run this on a host where" in str(error)


def test_a_running_peer_keeps_its_folder(home: Path, founded: Home, words: str) -> None:
    with running_peer(home):
        for group, word in ((ca_keys.root, "seal"), (ca_keys.issuer, "renew")):
            error = failed(group, word, "--home", str(home), "--passphrase-file", words)
            assert "is in use by process" in str(error)
