"""The ClientHello is read without trust: what is not understood offers nothing."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.transport.alpn import RECORD_BYTES_MAX, offered_protocols, record_bytes


def client_hello(alpn: list[str], server_hostname: str | None = None) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if alpn:
        context.set_alpn_protocols(alpn)
    out = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=server_hostname)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()


@pytest.mark.parametrize("alpn", [[], ["a"], ["rhizome-client/1"], ["h2", "http/1.1"]])
@pytest.mark.parametrize("name", [None, "example.test"])
def test_the_offer_of_a_real_client_is_read(alpn: list[str], name: str | None) -> None:
    record = client_hello(alpn, name)
    assert offered_protocols(record) == tuple(alpn)
    assert record_bytes(record) == len(record)


def test_a_record_is_read_in_full_before_it_is_judged() -> None:
    record = client_hello(["rhizome-client/1"])
    for size in range(len(record)):
        assert record_bytes(record[:size]) > size
        assert offered_protocols(record[:size]) == ()


@given(st.binary(max_size=400))
def test_arbitrary_bytes_offer_nothing_and_ask_for_a_bounded_read(data: bytes) -> None:
    assert record_bytes(data) <= RECORD_BYTES_MAX
    assert isinstance(offered_protocols(data), tuple)


@given(st.data())
def test_an_altered_hello_never_raises(data: st.DataObject) -> None:
    record = bytearray(client_hello(["rhizome-client/1"]))
    for _ in range(data.draw(st.integers(1, 4))):
        record[data.draw(st.integers(0, len(record) - 1))] = data.draw(st.integers(0, 255))
    assert isinstance(offered_protocols(bytes(record)), tuple)
