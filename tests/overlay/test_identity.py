"""A host's identity in its folder: whole, of one host, of one overlay, and in its dates."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.clock import SIMULATION_EPOCH_UNIX_S
from chaos.entropy import SeededEntropy
from overlay.address import Address
from overlay.errors import HomeError
from overlay.gossip.epochs import place_of
from overlay.home import Home, HomeFile
from overlay.identity import (
    Identity,
    load_identity,
    read_enrolment,
    store_epoch,
    store_identity,
    store_renewed,
)
from security.authority import Authority
from security.certificate import issue_leaf
from security.epoch import read_epoch
from security.errors import IdentityMismatch, SecurityError
from security.keys import HostKeys
from security.revocation import RevocationSet

DAY_S = 86_400
NOW_S = SIMULATION_EPOCH_UNIX_S


def stored(folder: Path, seed: int = 1, host: int = 1) -> Home:
    """A folder with the identity of one host of the overlay that ``seed`` makes."""
    secret = SeededEntropy(seed, "authority").secret
    authority = Authority.create(secret, NOW_S, ["default", "other"])
    keys = HostKeys.generate(SeededEntropy(seed, f"host {host}").secret)
    authority, grant = authority.enrol(
        keys.peer_id, keys.sealing_public, [authority.tenant_id("default")], secret, NOW_S
    )
    home = Home.create(folder)
    store_identity(home, keys, grant, NOW_S)
    return home


def loaded(home: Home) -> Identity:
    return load_identity(home)


def test_what_is_stored_is_loaded(tmp_path: Path) -> None:
    home = stored(tmp_path / "a")
    identity = loaded(home)
    assert identity.peer_id == identity.keys.peer_id
    assert identity.trust.overlay_id == home.overlay_id()
    assert identity.credentials.leaf == home.need(HomeFile.LEAF)
    assert identity.credentials.roots == (home.need(HomeFile.ROOT),)
    ((name, epoch),) = home.read_epochs().items()  # only of its own tenants
    header = read_epoch(epoch, identity.trust, NOW_S, RevocationSet()).value
    assert name == place_of(header).hex(), "a file is named as a row of the database is"
    assert repr(identity).find(identity.keys.to_bytes().hex()[:32]) == -1


def test_the_dates_of_its_certificate_are_told_in_words(tmp_path: Path) -> None:
    identity = loaded(stored(tmp_path / "a"))
    assert identity.check_dates(NOW_S) is None
    assert identity.check_dates(NOW_S - 599) is None, "starts are set back by ten minutes"
    assert identity.check_dates(NOW_S + 31 * DAY_S) is None, "the issuer renews it"
    early = identity.check_dates(NOW_S - 601)
    late = identity.check_dates(NOW_S + 31 * DAY_S + 1)
    assert early is not None
    assert "set the clock" in early
    assert late is not None
    assert "'rhizome invite'" in late
    assert "--home" in late
    assert identity.check_dates(NOW_S + 400 * DAY_S, issues=True) is None, "it renews itself"
    assert identity.check_dates(NOW_S - 601, issues=True) == early


def test_a_renewed_certificate_is_stored_and_loaded(tmp_path: Path) -> None:
    home = stored(tmp_path / "a")
    identity = loaded(home)
    assert read_enrolment(home) == ()
    secret = SeededEntropy(1, "authority").secret
    authority = Authority.create(secret, NOW_S, ["default", "other"])
    leaf = issue_leaf(authority.issuer, identity.peer_id, secret, NOW_S + 100)
    store_renewed(
        home, identity.renewed(leaf, identity.issuer, identity.trust), ["192.0.2.1:7402", "[::1]:1"]
    )
    assert loaded(home).leaf == leaf
    assert read_enrolment(home) == (Address("192.0.2.1", 7402), Address("::1", 1))
    store_renewed(home, loaded(home), [])
    assert len(read_enrolment(home)) == 2, "nothing told is nothing new"
    home.write(HomeFile.ENROLMENT, b"nonsense\n\xff\n192.0.2.1:1\n" * 20)
    assert set(read_enrolment(home)) == {Address("192.0.2.1", 1)}
    assert len(read_enrolment(home)) == 16


def test_another_hosts_or_issuers_certificate_is_not_taken_for_ones_own(tmp_path: Path) -> None:
    identity = loaded(stored(tmp_path / "a"))
    other = loaded(stored(tmp_path / "b", host=2))
    with pytest.raises(IdentityMismatch):
        identity.renewed(other.leaf, other.issuer, identity.trust)
    foreign = loaded(stored(tmp_path / "c", seed=2))
    with pytest.raises(SecurityError):
        identity.renewed(foreign.leaf, foreign.issuer, identity.trust)


NEEDED = {HomeFile.HOST_KEYS, HomeFile.ROOT, HomeFile.ISSUER, HomeFile.LEAF}


@pytest.mark.parametrize("file", [f for f in HomeFile if f is not HomeFile.AUTHORITY])
def test_a_folder_that_lacks_a_file_says_what_to_run(tmp_path: Path, file: HomeFile) -> None:
    home = stored(tmp_path / "a")
    home.remove(file)
    if file in set(HomeFile) - NEEDED:
        assert loaded(home).trust.overlay_id == home.overlay_id()
        return
    with pytest.raises(HomeError, match="rhizome init"):
        loaded(home)


@pytest.mark.parametrize(
    "file", [HomeFile.HOST_KEYS, HomeFile.LEAF, HomeFile.ISSUER, HomeFile.ROOT]
)
def test_a_file_of_another_overlay_or_damaged_is_refused(tmp_path: Path, file: HomeFile) -> None:
    home, other = stored(tmp_path / "a"), stored(tmp_path / "b", seed=2)
    whole = home.need(file)
    for content in (other.need(file), b"", b"damaged", whole[:-1], whole + b"\x00"):
        home.write(file, content)
        with pytest.raises((HomeError, SecurityError)):
            loaded(home)
    home.write(file, whole)
    assert loaded(home).peer_id


def test_keys_of_another_host_of_the_same_overlay_are_refused(tmp_path: Path) -> None:
    home, other = stored(tmp_path / "a"), stored(tmp_path / "b", host=2)
    home.write(HomeFile.HOST_KEYS, other.need(HomeFile.HOST_KEYS))
    with pytest.raises(HomeError, match="of two hosts"):
        loaded(home)


def test_the_whole_identity_of_another_overlay_does_not_take_the_folder_over(
    tmp_path: Path,
) -> None:
    home, other = stored(tmp_path / "a"), stored(tmp_path / "b", seed=2)
    before = home.need(HomeFile.LEAF)
    with pytest.raises(HomeError, match="belongs to overlay"):
        stored(home.path, seed=2)
    assert home.need(HomeFile.LEAF) == before
    for file in (HomeFile.HOST_KEYS, HomeFile.LEAF, HomeFile.ISSUER, HomeFile.ROOT):
        home.write(file, other.need(file))
    with pytest.raises(HomeError, match="belongs to overlay"):
        loaded(home)


def test_an_epoch_of_another_overlay_is_not_stored(tmp_path: Path) -> None:
    home, other = stored(tmp_path / "a"), stored(tmp_path / "b", seed=2)
    (foreign,) = other.read_epochs().values()
    before = home.read_epochs()
    with pytest.raises(SecurityError):
        store_epoch(home, foreign, loaded(home).trust, NOW_S)
    assert home.read_epochs() == before
