"""The Unix socket: who may open it, what is left behind, who is already there."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from overlay.errors import HomeError, PeerGone, StreamReset
from overlay.home import Home
from overlay.ports import SecureChannel
from overlay.system import SystemClock, SystemEntropy
from overlay.transport.connection import Handler
from overlay.transport.dial import dial_socket
from overlay.transport.limits import Limits
from overlay.transport.link import establish
from overlay.transport.local import CONNECTIONS_MAX, dial_local, listen_local
from tests.overlay.transport.world import Overlay, echo


async def hello_only(channel: SecureChannel) -> None:
    await channel.channel.send_all(b"hello")


@asynccontextmanager
async def serving(path: Path, handlers: dict[str, Handler]) -> AsyncIterator[None]:
    overlay = Overlay()
    host = overlay.host()

    async def accept(channel: SecureChannel) -> None:
        connection = await establish(
            channel,
            ours=overlay.hello(host),
            judge=overlay.judge,
            expected=None,
            clock=SystemClock(),
            entropy=SystemEntropy(),
            limits=Limits(),
            allowed="/rhizome/",
        )
        await connection.run(handlers)

    async with trio.open_nursery() as nursery:
        with trio.fail_after(10):
            await nursery.start(listen_local, path, accept)
            yield
        nursery.cancel_scope.cancel()


async def test_a_command_of_this_host_calls_its_peer(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "h")
    async with serving(home.control_path(), {"/rhizome/control/1": echo, "/other": echo}):
        connection = await dial_socket(home)
        async with trio.open_nursery() as nursery:
            await nursery.start(connection.run, {})
            assert await connection.call("/rhizome/control/1", b"status", timeout_s=5) == b"status"
            with pytest.raises(StreamReset):
                await connection.call("/other", b"", timeout_s=5)
            await connection.aclose(0, "done")


async def test_only_the_owner_may_open_the_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serving(path, {}):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


async def test_a_socket_left_behind_is_replaced(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "h")
    path = home.control_path()
    left_behind = trio.socket.socket(trio.socket.AF_UNIX)
    await left_behind.bind(str(path))
    left_behind.close()
    async with serving(path, {}):
        await dial_socket(home)


async def test_a_socket_in_use_is_not_taken(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "h")
    async with serving(home.control_path(), {"/rhizome/echo": echo}):
        with pytest.raises(HomeError, match="already running"):
            await listen_local(home.control_path(), hello_only)
        await dial_socket(home)


async def test_a_file_in_the_way_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(HomeError):
        await listen_local(path, hello_only)
    assert path.read_text() == "precious"


async def test_a_path_too_long_for_a_socket_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(HomeError, match="home folder"):
        await listen_local(tmp_path / ("x" * 100), hello_only)


async def test_no_peer_here_is_one_clear_line(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "a home")
    with pytest.raises(HomeError) as caught:
        await dial_socket(home)
    command = f"rhizome peer --home '{home.path}'"
    assert str(caught.value) == f"no peer is running in {home.path}: start it with '{command}'"


async def test_a_peer_that_still_loads_is_not_taken_for_none(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "h")
    with home.locked(), pytest.raises(HomeError, match=f"process {os.getpid()} is at work in"):
        await dial_socket(home)


async def test_a_peer_whose_queue_is_full_is_not_taken_for_none(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "h")
    with ExitStack() as sockets:
        deaf = sockets.enter_context(socket.socket(socket.AF_UNIX))
        deaf.bind(str(home.control_path()))
        deaf.listen(0)
        refused = 0
        while refused != errno.EAGAIN:
            caller = sockets.enter_context(socket.socket(socket.AF_UNIX))
            caller.setblocking(False)
            refused = caller.connect_ex(str(home.control_path()))
        with pytest.raises(HomeError, match="cannot be asked now"), trio.fail_after(5):
            await dial_socket(home)


async def test_one_program_too_many_is_told_at_once(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "h")
    async with serving(home.control_path(), {"/rhizome/echo": echo}):
        held = [await dial_socket(home) for _ in range(CONNECTIONS_MAX)]
        with pytest.raises(PeerGone, match="64 programs of this host are connected"):
            await dial_socket(home)
        await held.pop().aclose(0, "done")
        await trio.testing.wait_all_tasks_blocked(0.05)
        await (await dial_socket(home)).aclose(0, "done")
        for connection in held:
            await connection.aclose(0, "done")


async def test_a_failing_accept_ends_its_connection_only(tmp_path: Path) -> None:
    path = tmp_path / "s"
    calls = 0

    async def accept(channel: SecureChannel) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("bug")
        await channel.channel.send_all(b"hello")

    async with trio.open_nursery() as nursery:
        await nursery.start(listen_local, path, accept)
        first = await dial_local(path)
        assert await first.channel.receive_some() == b""
        second = await dial_local(path)
        assert await second.channel.receive_some() == b"hello"
        await first.channel.aclose()
        await second.channel.aclose()
        nursery.cancel_scope.cancel()
