"""``rhizome init``: a new overlay, once."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from overlay.config import PeerConfig, load_config
from overlay.errors import StorageFull
from overlay.home import Home, HomeFile
from overlay.identity import load_identity
from security.authority_state import authority_from_bytes
from tests.overlay.commands.terminal import rhizome


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock"
    }


def test_it_makes_a_private_folder_with_a_host_and_commented_settings(home: Path) -> None:
    ran = rhizome("init", "--home", str(home)).worked()
    assert "tenants: default" in ran.out
    assert str(home) in ran.out
    assert "rhizome peer" in ran.out
    assert "rhizome invite" in ran.out
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    identity = load_identity(Home(home))
    assert identity.trust.overlay_id.startswith(ran.out.split()[2])
    assert load_config(home / "rhizome.toml") == PeerConfig()
    assert len(Home(home).read_epochs()) == 1


def test_the_flag_for_tenants_may_be_repeated(home: Path) -> None:
    ran = rhizome("init", "--home", str(home), "--tenant", "b", "--tenant", "a").worked()
    assert "tenants: a, b" in ran.out
    assert len(Home(home).read_epochs()) == 2


def test_the_folder_may_be_named_by_the_environment(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RHIZOME_HOME", str(home))
    rhizome("init").worked()
    assert Home(home).is_member


def test_a_second_time_is_refused_and_nothing_is_lost(home: Path) -> None:
    rhizome("init", "--home", str(home)).worked()
    (home / "rhizome.toml").write_text('policy = "local"\n')
    before = content(home)
    line = rhizome("init", "--home", str(home), "--tenant", "other").failed(1)
    assert line.startswith(f"{home} holds a host already: start it with 'rhizome peer'")
    assert content(home) == before


def test_a_folder_in_use_is_refused(home: Path) -> None:
    with Home.create(home).locked():
        assert "is in use by process" in rhizome("init", "--home", str(home)).failed(1)
    assert content(home) == {}


@pytest.mark.parametrize(
    ("tenants", "words"),
    [
        (("a b",), "a tenant name has 1 to 64 letters"),
        (("",), "a tenant name has 1 to 64 letters"),
        (("x" * 65,), "a tenant name has 1 to 64 letters"),
        (("a", "a"), "there is a tenant 'a' already"),
    ],
)
def test_tenants_that_cannot_be_are_refused_and_the_folder_stays_free(
    home: Path, tenants: tuple[str, ...], words: str
) -> None:
    flags = [word for tenant in tenants for word in ("--tenant", tenant)]
    assert words in rhizome("init", "--home", str(home), *flags).failed(1)
    rhizome("init", "--home", str(home)).worked()


@pytest.mark.parametrize("writes", range(8))
def test_one_that_was_cut_off_is_completed(
    home: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    whole, done = Home._write, 0

    def until_full(folder: Home, path: Path, data: bytes) -> None:
        nonlocal done
        done += 1
        if done > writes:
            raise StorageFull("no space is left")
        whole(folder, path, data)

    with monkeypatch.context() as patched:
        patched.setattr(Home, "_write", until_full)
        assert rhizome("init", "--home", str(home)).failed(1) == "no space is left"
    kept = Home(home).read(HomeFile.AUTHORITY)
    if not Home(home).is_member:
        rhizome("init", "--home", str(home), "--tenant", "b").worked()
    identity = load_identity(Home(home))
    authority = authority_from_bytes(Home(home).need(HomeFile.AUTHORITY))
    assert kept is None or authority_from_bytes(kept).trust == authority.trust
    assert identity.trust.overlay_id == authority.trust.overlay_id
    for tenant in authority.tenants.values():
        assert list(tenant.content.members) == [identity.peer_id], "no member without its keys"


def test_a_host_that_has_half_joined_founds_no_overlay_in_its_folder(home: Path) -> None:
    Home.create(home).claim("ab" * 16)
    before = content(home)
    assert "belongs to overlay abab" in rhizome("init", "--home", str(home)).failed(1)
    assert content(home) == before


def test_half_an_overlay_is_none(home: Path) -> None:
    rhizome("init", "--home", str(home)).worked()
    Home(home).remove(HomeFile.LEAF)
    line = rhizome("peer", "--home", str(home)).failed(1)
    assert "holds no leaf.der: run 'rhizome init'" in line
