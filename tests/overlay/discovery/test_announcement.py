"""What is said on the LAN, and what is believed of what others say."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from overlay.address import Address
from overlay.discovery.announcement import ADDRESSES_MAX, Announcement, Reader, announcements
from overlay.ports import PeerHint
from security.peer_id import PeerId, peer_id_of


def peer(number: int) -> PeerId:
    return peer_id_of(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32).public_key())


US, THEM = peer(1), peer(2)
OVERLAY, OTHER_OVERLAY = "ab" * 32, "cd" * 32
LAN = [Address("192.168.1.5", 7401)]
LOOPBACK = [Address("127.0.0.1", 7401)]


def txt_of(peer_id: PeerId, overlay_id: str = OVERLAY) -> dict[bytes, bytes | None]:
    return dict(announcements(peer_id, overlay_id, LAN)[0].txt)


def test_an_announcement_is_read_back_as_a_hint() -> None:
    addresses = [Address("192.168.1.6", 7401), Address("fd00::6", 7401)]
    (said,) = announcements(THEM, OVERLAY, addresses)
    hint = Reader(US, OVERLAY, LAN).read(dict(said.txt), said.hosts, said.port)
    assert hint == PeerHint(peer_id=THEM, addresses=tuple(addresses))


def test_each_port_has_its_own_instance_and_scopes_stay_at_home() -> None:
    addresses = [Address("10.0.0.1", 9), Address("fe80::1%eth0", 8), Address("10.0.0.2", 8)]
    said = announcements(US, OVERLAY, addresses)
    assert [(each.port, each.hosts) for each in said] == [
        (8, ("fe80::1", "10.0.0.2")),
        (9, ("10.0.0.1",)),
    ]


def test_loopback_is_announced_only_where_it_is_all_there_is() -> None:
    (said,) = announcements(US, OVERLAY, [*LOOPBACK, *LAN])
    assert said.hosts == ("192.168.1.5",)
    (said,) = announcements(US, OVERLAY, LOOPBACK)
    assert said.hosts == ("127.0.0.1",)
    assert announcements(US, OVERLAY, []) == ()


def test_records_hold_version_peer_and_overlay_only_and_fit_one_packet() -> None:
    (said,) = announcements(US, OVERLAY, LAN)
    assert isinstance(said, Announcement)
    assert said.txt == {b"v": b"1", b"id": US.encode(), b"o": b"ab" * 8}
    assert sum(len(key) + len(value) + 2 for key, value in said.txt.items()) < 200


@pytest.mark.parametrize(
    "changed",
    [
        {b"v": b"2"},
        {b"v": None},
        {b"o": OTHER_OVERLAY[:16].encode()},
        {b"id": b""},
        {b"id": None},
        {b"id": b"nobody"},
        {b"id": b"\xff" * 20},
        {b"id": b"1" * 255},
    ],
)
def test_malformed_or_foreign_records_are_no_hint(changed: dict[bytes, bytes | None]) -> None:
    reader = Reader(US, OVERLAY, LAN)
    assert reader.read(txt_of(THEM), ["10.0.0.1"], 7401) is not None
    assert reader.read(txt_of(THEM) | changed, ["10.0.0.1"], 7401) is None


def test_our_own_records_are_no_hint() -> None:
    assert Reader(US, OVERLAY, LAN).read(txt_of(US), ["10.0.0.1"], 7401) is None


@pytest.mark.parametrize("port", [None, 0, 65536, -1])
def test_a_port_that_cannot_be_dialled_gives_no_hint(port: int | None) -> None:
    assert Reader(US, OVERLAY, LAN).read(txt_of(THEM), ["10.0.0.1"], port) is None


def test_a_peer_of_the_lan_is_never_sent_to_its_own_loopback_nor_the_other_way() -> None:
    hosts = ["127.0.0.1", "::1", "10.0.0.1"]
    on_lan = Reader(US, OVERLAY, LAN).read(txt_of(THEM), hosts, 1)
    on_loopback = Reader(US, OVERLAY, LOOPBACK).read(txt_of(THEM), hosts, 1)
    assert on_lan is not None
    assert on_lan.addresses == (Address("10.0.0.1", 1),)
    assert on_loopback is not None
    assert on_loopback.addresses == (Address("127.0.0.1", 1), Address("::1", 1))
    assert Reader(US, OVERLAY, LAN).read(txt_of(THEM), ["127.0.0.1"], 1) is None


def test_a_hint_has_a_bounded_number_of_addresses() -> None:
    hosts = [f"10.0.{i}.1" for i in range(100)]
    hint = Reader(US, OVERLAY, LAN).read(txt_of(THEM), hosts, 1)
    assert hint is not None
    assert len(hint.addresses) == ADDRESSES_MAX


@given(
    st.dictionaries(
        st.sampled_from([b"v", b"id", b"o", b"x"]), st.none() | st.binary(max_size=255), max_size=4
    ),
    st.lists(st.text(max_size=50), max_size=5),
    st.none() | st.integers(-10, 70_000),
)
def test_whatever_the_lan_says_is_read_without_a_failure(
    txt: dict[bytes, bytes | None], hosts: list[str], port: int | None
) -> None:
    Reader(US, OVERLAY, LAN).read(txt, hosts, port)
    Reader(US, OVERLAY, LAN).read(txt_of(THEM) | txt, hosts, port)
