"""What a switch reads of frames, and the resets that it forges; frames of strangers hurt nobody."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.modes.live.flows import FLOWS_MAX, Flows
from chaos.modes.live.frames import (
    ACK,
    ETHERNET_BYTES,
    FIN,
    IPV4,
    RST,
    SYN,
    TCP,
    reset_to,
    segment_of,
)
from tests.chaos.live.frames import ADDRESSES, ARP, HOSTS, frame, segment


def summed(data: bytes) -> int:
    """The internet checksum over what holds a right one is zero."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def test_a_segment_is_read() -> None:
    read = segment_of(segment("a", "b", seq=7, ack=9, flags=ACK | FIN, data=b"abc"))
    assert read is not None
    assert (read.source, read.target) == ((HOSTS["a"], 40_000), (HOSTS["b"], 7401))
    assert (read.seq, read.ack, read.flags, read.size) == (7, 9, ACK | FIN, 4)


def test_padding_of_a_short_frame_is_no_data() -> None:
    read = segment_of(segment("a", "b") + bytes(6))
    assert read is not None
    assert read.size == 0


def spoilt(at: int, value: int) -> bytes:
    data = bytearray(segment("a", "b", data=b"abc"))
    data[ETHERNET_BYTES + at] = value
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        bytes(13),
        frame("a", "b"),
        frame("a", "b", bytes(60), ARP),
        segment("a", "b")[:-1],
        spoilt(0, 0x65),  # IPv6 in a frame of IPv4
        spoilt(0, 0x41),  # a header of 4 bytes
        spoilt(0, 0x4F),  # a header that leaves no room
        spoilt(2, 0xFF),  # longer than the frame
        spoilt(6, 0x20),  # the first part of several
        spoilt(7, 0x01),  # a later part
        spoilt(9, 17),  # UDP
        spoilt(32, 0x10),  # a TCP header of 4 bytes
        spoilt(32, 0xF0),  # one that is longer than the segment
    ],
)
def test_what_is_no_whole_segment_is_none(data: bytes) -> None:
    assert segment_of(data) is None
    assert Flows().see(data, "a", "b") is None


@given(st.binary(max_size=120))
def test_any_bytes_are_read_without_an_error(body: bytes) -> None:
    Flows().see(frame("a", "b", body), "a", "b")
    Flows().see(frame("a", "b", b"\x45\x00" + body), "a", "b")


def test_a_forged_reset_comes_from_the_far_end_and_fits() -> None:
    sent = segment("a", "b", seq=(1 << 32) - 2, ack=500, data=b"abcd")
    read = segment_of(sent)
    assert read is not None
    forged = reset_to(sent, read)
    back = segment_of(forged)
    assert back is not None
    assert (back.source, back.target) == (read.target, read.source)
    assert (back.seq, back.ack, back.flags, back.size) == (500, 2, RST | ACK, 0)
    assert forged[:12] == ADDRESSES["a"] + ADDRESSES["b"]
    ip, tcp = forged[14:34], forged[34:]
    assert summed(ip) == 0
    assert summed(ip[12:20] + struct.pack("!BBH", 0, TCP, len(tcp)) + tcp) == 0
    assert forged[12:14] == IPV4


# -- connections


def opened(flows: Flows, port: int = 40_000) -> None:
    assert flows.see(segment("a", "b", flags=SYN, ack=0, port=port), "a", "b") is None
    answer = segment("b", "a", seq=300, ack=101, flags=SYN | ACK, port=port)
    assert flows.see(answer, "b", "a") is None
    assert flows.see(segment("a", "b", seq=101, ack=301, port=port), "a", "b") is None


def test_both_ends_of_a_broken_connection_are_told() -> None:
    flows = Flows()
    opened(flows)
    (forged,) = flows.reset("b", "a")
    told = {}
    for node, data in forged:
        read = segment_of(data)
        assert read is not None
        told[node] = read.seq
    assert told == {"a": 301, "b": 101}
    assert flows.reset("a", "b") == []


def test_what_a_broken_connection_still_says_gets_a_reset_that_fits() -> None:
    flows = Flows()
    opened(flows)
    flows.reset("a", "b")
    answer = flows.see(segment("a", "b", seq=101, ack=350, data=b"x"), "a", "b")
    assert answer is not None
    read = segment_of(answer)
    assert read is not None
    assert (read.seq, read.target) == (350, (HOSTS["a"], 40_000))
    assert flows.see(segment("a", "b", flags=RST), "a", "b") is None, "a reset passes"
    opened(flows)
    assert flows.see(segment("a", "b", seq=102, data=b"x"), "a", "b") is None, "a new one passes"


@pytest.mark.parametrize("flags", [FIN | ACK, RST])
def test_a_connection_that_ends_is_not_broken(flags: int) -> None:
    flows = Flows()
    opened(flows)
    flows.see(segment("a", "b", seq=101, ack=301, flags=flags), "a", "b")
    flows.see(segment("b", "a", seq=301, ack=102), "b", "a")
    assert flows.reset("a", "b") == []


def test_connections_of_others_stay_and_their_number_is_bounded() -> None:
    flows = Flows()
    opened(flows)
    assert flows.reset("a", "c") == []
    for port in range(FLOWS_MAX + 10):
        opened(flows, port)
    assert len(flows.reset("a", "b")) == FLOWS_MAX
