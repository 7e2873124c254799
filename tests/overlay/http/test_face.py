"""Opening the HTTP face: addresses, taken ports, and certificates that cannot be used."""

from __future__ import annotations

import pytest
import trio

from overlay.address import Address
from overlay.config import PeerConfig
from overlay.discovery.interfaces import Interface
from overlay.errors import ConfigError
from overlay.http.face import client_addresses, open_listeners
from tests.overlay.http.peers import served
from tests.overlay.http.world import Client


async def test_the_base_url_is_where_it_listens() -> None:
    async with served() as peer:
        port = int(peer.url.removeprefix("http://127.0.0.1:"))
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.aclose()


@pytest.mark.parametrize(
    ("bound", "hosts", "told"),
    [
        ("127.0.0.1", ["10.0.0.5"], ["127.0.0.1"]),
        ("0.0.0.0", ["10.0.0.5", "fe80::1%eth0", "fd00::5"], ["10.0.0.5"]),  # noqa: S104 - on purpose
        ("::", ["10.0.0.5", "fe80::1%eth0", "fd00::5"], ["fd00::5"]),
        ("::", ["fe80::1%eth0"], ["fe80::1%eth0"]),
        ("0.0.0.0", ["fd00::5"], ["127.0.0.1"]),  # noqa: S104 - on purpose
        ("::", [], ["::1"]),
    ],
)
def test_base_urls_are_addresses_that_a_client_can_use(
    bound: str, hosts: list[str], told: list[str]
) -> None:
    interfaces = [Interface(name="eth0", hosts=tuple(hosts))]
    found = client_addresses([Address(bound, 7403)], interfaces)
    assert [address.host for address in found] == told
    assert {address.port for address in found} == {7403}


async def test_a_port_that_is_taken_is_said_in_one_line() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port = listener.socket.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 is taken.*--http"):
            await open_listeners(PeerConfig(http=Address("127.0.0.1", port)))


async def test_an_address_that_is_not_ours_is_said_in_one_line() -> None:
    config = PeerConfig(http=Address("192.0.2.1", 0), http_insecure=True)
    with pytest.raises(ConfigError, match=r"cannot serve HTTP on 192\.0\.2\.1:0"):
        await open_listeners(config)


async def test_it_answers_to_the_names_and_origins_of_its_settings() -> None:
    named = {"http_hosts": ("llm.example",), "http_origins": ("https://app.example",)}
    async with served(**named) as peer:
        port = int(peer.url.rpartition(":")[2])
        client = Client(await trio.open_tcp_stream("127.0.0.1", port))
        for head, status in {
            "Host: llm.example": 200,
            "Host: other.example": 421,
            "Host: localhost\r\nOrigin: https://app.example": 200,
            "Host: localhost\r\nOrigin: https://other.example": 403,
        }.items():
            answer = await client.ask(f"GET /health HTTP/1.1\r\n{head}\r\n\r\n".encode())
            assert answer.status == status
        await client.stream.aclose()
