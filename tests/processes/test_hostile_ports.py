"""Garbage, silence and half a handshake on every TCP port of a real peer; others notice nothing."""

from __future__ import annotations

import random
import re
import ssl
from pathlib import Path

import pytest
import trio

from overlay.client import PeerClient
from overlay.demo.cluster import PeerProcess, running_cluster
from overlay.request import Finished

pytestmark = pytest.mark.processes

SEED = 11
STRANGERS = 20
GARBAGE_BYTES = 64 << 10
GROWTH_BYTES_MAX = 40 << 20
LET_GO_S = 25.0
"""Longest deadline of the three ports (10 s for an HTTP head) on a busy machine."""


def resident_bytes(peer: PeerProcess) -> int:
    """Memory that a peer's process holds now."""
    text = Path(f"/proc/{peer.pids[-1]}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    assert found is not None
    return int(found[1]) << 10


async def ports_of(peer: PeerProcess) -> dict[str, int]:
    """Every TCP port that the peer's posture block tells of."""
    status = await peer.status()
    overlay = int(status.addresses[0].rpartition(":")[2])
    http = int(status.http[0].rpartition(":")[2])
    enrolment = re.findall(r"127\.0\.0\.1:(\d+).* holders of a ticket", peer.log.read_text())
    return {"overlay": overlay, "http": http, "enrolment": int(enrolment[-1])}


def client_hello() -> bytes:
    """The first flight of a TLS handshake, of a client that then says nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    outgoing = ssl.MemoryBIO()
    session = context.wrap_bio(ssl.MemoryBIO(), outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


async def until_let_go(stream: trio.SocketStream, say: bytes) -> None:
    """Says something and takes whatever comes until the other side hangs up."""
    try:
        await stream.send_all(say)
        while await stream.receive_some(1 << 16):
            pass
    except trio.BrokenResourceError:
        return


async def answered(client: PeerClient, text: str) -> bool:
    """Whether a question gets an end; the toy's text may be empty."""
    messages = [{"role": "user", "content": text}]
    events = [event async for event in client.chat(messages, max_tokens=4)]
    return isinstance(events[-1], Finished)


async def test_strangers_on_every_port_are_let_go_and_disturb_nobody(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    hello = client_hello()
    async with running_cluster(tmp_path, ("anna",), ("default",)) as cluster:
        await cluster.create()
        await cluster.start("--engine", "toy")
        peer = cluster.peers[0]
        ports = await ports_of(peer)
        async with PeerClient.connect(home=peer.home) as client:
            assert await answered(client, "hello")
            before = resident_bytes(peer)
            with trio.fail_after(LET_GO_S):
                async with trio.open_nursery() as nursery:
                    for name, port in ports.items():
                        for number in range(STRANGERS):
                            stream = await trio.open_tcp_stream("127.0.0.1", port)
                            garbage = rng.randbytes(GARBAGE_BYTES)
                            say = (b"", garbage, hello, hello + garbage, b"GET / HTTP/1.1\r\nx")
                            nursery.start_soon(until_let_go, stream, say[number % len(say)])
                        with trio.fail_after(20):
                            assert await answered(client, name)
            assert resident_bytes(peer) - before < GROWTH_BYTES_MAX
            assert await answered(client, "hello again")
        assert peer.runs
        assert "Traceback" not in peer.log.read_text()
