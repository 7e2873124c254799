"""Namespaces of our own and the switch between them: real devices, real TCP, nothing outside."""

from __future__ import annotations

import errno
import os
import random
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner

from chaos.errors import ChaosError, Unsupported
from chaos.faults.fault import Network
from chaos.modes.live import namespace as making
from chaos.modes.live.namespace import Namespace, refusal
from chaos.modes.live.namespaces import SUBNET, Namespaces, address_of, interface_of, namespaces
from chaos.modes.live.network import listening_here
from chaos.modes.live.tag import PORT, STRANGERS, check_target
from chaos.modes.live.weather import Shape
from chaos.scenario.scenario import Cluster
from overlay.commands.main import cli
from tests.chaos.live.namespaces import needs_namespaces

PLAN = Cluster(nodes=2, network=Network.NAMESPACES)
MDNS = ("224.0.0.251", 5353)


@asynccontextmanager
async def joined() -> AsyncIterator[Namespaces]:
    """Two namespaces, and a switch that carries."""
    with namespaces(PLAN) as network, trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(network.run)
            yield network
            nursery.cancel_scope.cancel()


async def serve(
    network: Namespaces,
    handler: Callable[[trio.SocketStream], Awaitable[None]],
    nursery: trio.Nursery,
) -> None:
    """Listens where the peer of ``n2`` would."""
    with network.inside("n2"):
        listener = trio.socket.socket()
    await listener.bind((address_of(2), PORT))
    listener.listen()
    nursery.start_soon(trio.serve_listeners, handler, [trio.SocketListener(listener)])


async def dial(network: Namespaces) -> trio.SocketStream:
    """From ``n1``."""
    with network.inside("n1"):
        made = trio.socket.socket()
    await made.connect((address_of(2), PORT))
    return trio.SocketStream(made)


async def echo(stream: trio.SocketStream) -> None:
    async with stream:
        while data := await stream.receive_some():
            await stream.send_all(data)


async def echoed(stream: trio.SocketStream, data: bytes) -> bytes:
    """What comes back of it."""
    came = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, data)
        while len(came) < len(data):
            more = await stream.receive_some()
            assert more
            came += more
    return came


def where() -> int:
    """The namespace that we are in."""
    return Path("/proc/thread-self/ns/net").stat().st_ino


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def devices() -> list[str]:
    """Interfaces of the namespace that we are in."""
    lines = Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]
    return [line.partition(":")[0].strip() for line in lines]


# -- what is made, and what is left


@needs_namespaces
def test_a_namespace_is_elsewhere_and_nothing_of_it_is_here() -> None:
    before, here = devices(), where()
    made = Namespace()
    try:
        made.add_tap("rhz-n1", bytes([2, 0, 0, 0, 0, 1]), [address_of(1), address_of(200)])
        with made.inside():
            assert sorted(devices()) == ["lo", "rhz-n1"]
            assert where() != here
            with socket.create_server(("127.0.0.1", 0)) as server:
                assert listening_here() == [server.getsockname()]
            with socket.socket() as nowhere, pytest.raises(OSError) as caught:
                nowhere.connect(("192.0.2.1", 80))
            assert caught.value.errno == errno.ENETUNREACH
        assert where() == here
        assert devices() == before
    finally:
        made.close()
        made.close()


@needs_namespaces
def test_an_error_inside_leads_back_out() -> None:
    here = where()
    open_before = open_files()
    made = Namespace()
    with pytest.raises(ZeroDivisionError), made.inside():
        raise ZeroDivisionError
    with pytest.raises(OSError):
        made.add_tap("lo", bytes(6), [address_of(1)])
    made.close()
    assert where() == here
    assert open_files() == open_before


@needs_namespaces
def test_a_cluster_that_cannot_be_made_whole_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, made = Namespace.add_tap, []

    def fails_at_the_second(self: Namespace, *arguments: object) -> int:
        made.append(self)
        if len(made) == 2:
            raise OSError(errno.EMFILE, "no more")
        return real(self, *arguments)  # type: ignore[arg-type]

    open_before = open_files()
    monkeypatch.setattr(Namespace, "add_tap", fails_at_the_second)
    with pytest.raises(OSError, match="no more"):
        Namespaces(PLAN)
    assert open_files() == open_before


# -- the probe


def test_without_the_tun_device_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(making, "TUN", tmp_path / "tun")
    wanted = rf"there is no {tmp_path}/tun, .*\. Run it as root"
    with pytest.raises(Unsupported, match=wanted) as caught, namespaces(PLAN):
        pass
    assert "\n" not in str(caught.value)


def test_without_network_namespaces_it_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(making, "WHERE_WE_ARE", tmp_path / "net")
    assert refusal() == "the system has no network namespaces"


def test_without_the_right_it_says_which_and_stays_where_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(descriptor: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    here = where()
    monkeypatch.setattr(making, "_enter", refuse)
    monkeypatch.setattr(making, "TUN", tmp_path)
    assert "Operation not permitted (CAP_SYS_ADMIN" in str(refusal())
    assert where() == here


def test_the_command_ends_with_64_and_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(making, "TUN", tmp_path / "tun")
    out = tmp_path / "out"
    ran = CliRunner().invoke(cli, ["chaos", "run", "live-namespaces", "--out", str(out)])
    assert ran.exit_code == 64
    (line,) = ran.stderr.splitlines()
    assert line.startswith('rhizome: network = "namespaces" is not to be had here: there is no ')
    assert not out.exists()


@needs_namespaces
def test_a_tun_device_that_is_none_is_a_refusal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tun").write_bytes(b"")
    monkeypatch.setattr(making, "TUN", tmp_path / "tun")
    assert str(refusal()).startswith("a TAP device cannot be made in a network namespace: ")


@pytest.mark.parametrize("address", ["127.0.0.1", "10.77.1.1", "192.168.0.1", "8.8.8.8", "::1"])
def test_nothing_but_the_runs_own_network_is_a_target(address: str) -> None:
    check_target(address_of(1), SUBNET)
    with pytest.raises(ChaosError, match="touches no other"):
        check_target(address, SUBNET)


# -- packets


@needs_namespaces
async def test_tcp_gets_through_loss_swapping_doubling_and_damage() -> None:
    async with joined() as network, trio.open_nursery() as nursery:
        await serve(network, echo, nursery)
        rng, touched = random.Random(1), dict.fromkeys(("lost", "late", "twice", "damaged"), 0)

        def counted(what: str, share: float) -> bool:
            drawn = rng.random() < share
            touched[what] += drawn
            return drawn

        def damage(frame: bytes) -> bytes:
            whole = frame[12:14] != b"\x08\x00" or not counted("damaged", 0.02)
            return frame if whole else frame[:-1] + bytes([frame[-1] ^ 4])

        shape = Shape(
            on_effect=lambda: None,
            loses=lambda: counted("lost", 0.02),
            late_s=lambda: 0.002 * counted("late", 0.1),
            doubles=lambda: counted("twice", 0.1),
            damages=damage,
        )
        sent = rng.randbytes(200_000)
        async with await dial(network) as stream:
            with network.weather["n1", "n2"].under("f", shape):
                assert await echoed(stream, sent) == sent
        assert all(touched.values()), touched
        nursery.cancel_scope.cancel()


@needs_namespaces
async def test_a_cut_stalls_a_connection_and_a_reset_breaks_it_at_both_ends() -> None:
    far: list[BaseException] = []
    seen = trio.Event()

    async def answer(stream: trio.SocketStream) -> None:
        try:
            await echo(stream)
        except trio.BrokenResourceError as error:
            far.append(error)
            seen.set()

    async with joined() as network, trio.open_nursery() as nursery:
        await serve(network, answer, nursery)
        cut_off = trio.Event()
        async with await dial(network) as stream:
            assert await echoed(stream, b"before") == b"before"
            with network.weather["n1", "n2"].under("f", Shape(on_effect=cut_off.set, cuts=True)):
                await stream.send_all(b"held up")
                await cut_off.wait()
            assert await echoed(stream, b"") == b""
            assert await stream.receive_some() == b"held up"
            assert network.reset("n1", "n2") == 1
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
            await seen.wait()
        async with await dial(network) as stream:
            assert await echoed(stream, b"a new one") == b"a new one"
        nursery.cancel_scope.cancel()


@needs_namespaces
async def test_multicast_reaches_the_other_node_and_not_over_a_cut_link() -> None:
    async with joined() as network:
        sockets = []
        for name, part in (("n1", 1), ("n2", 2)):
            with network.inside(name):
                made = trio.socket.socket(type=socket.SOCK_DGRAM)
            own = socket.inet_aton(address_of(part))
            await made.bind(("", MDNS[1]))
            made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, own)
            group = struct.pack("4s4s", socket.inet_aton(MDNS[0]), own)
            made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
            made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
            sockets.append(made)
        one, two = sockets
        lost = trio.Event()
        with network.weather["n1", "n2"].under("f", Shape(on_effect=lost.set, cuts=True)):
            await one.sendto(b"first", MDNS)
            await lost.wait()
        await one.sendto(b"second", MDNS)
        assert await two.recvfrom(100) == (b"second", (address_of(1), MDNS[1]))
        for each in sockets:
            each.close()


@needs_namespaces
async def test_false_frames_of_a_node_reach_nobody_and_are_told_of() -> None:
    async with joined() as network, trio.open_nursery() as nursery:
        await serve(network, echo, nursery)
        assert network.notes() == []
        with network.inside("n1"), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind((interface_of("n1"), 0))
            for source in (bytes(6), bytes([0xFF]) * 6, bytes([2, 0, 0, 0, 0, 9])):
                raw.send(bytes([0xFF]) * 6 + source + random.Random(1).randbytes(200))
        while "3 frames" not in "".join(network.notes()):
            await trio.lowlevel.checkpoint()
        async with await dial(network) as stream:
            assert await echoed(stream, b"as before") == b"as before"
        nursery.cancel_scope.cancel()


@needs_namespaces
async def test_strangers_come_from_addresses_of_nobodys() -> None:
    sources: set[str] = set()

    async def take(stream: trio.SocketStream) -> None:
        sources.add(stream.socket.getpeername()[0])
        await stream.send_all(b"x")

    async with joined() as network, trio.open_nursery() as nursery:
        await serve(network, take, nursery)
        with network.weather["n1", "n2"].under("f", Shape(on_effect=lambda: None, cuts=True)):
            for number in range(STRANGERS + 1):
                async with await network.dial(number, "n2") as stream:
                    assert await stream.receive_some() == b"x"
        assert len(sources) == STRANGERS
        assert not sources & {address_of(1), address_of(2)}
        with pytest.raises(ConnectionRefusedError):
            await network.dial(0, "n1")
        assert network.listening() == [f"n2 {address_of(2)}:{PORT}"]
        nursery.cancel_scope.cancel()
