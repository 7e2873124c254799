"""The Unix socket: who may open it, what is left behind, who is already there."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from overlay.errors import HomeError, StreamReset
from overlay.ports import SecureChannel
from overlay.system import SystemClock, SystemEntropy
from overlay.transport.connection import Handler
from overlay.transport.dial import dial_socket
from overlay.transport.limits import Limits
from overlay.transport.link import establish
from overlay.transport.local import dial_local, listen_local
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
    path = tmp_path / "s"
    async with serving(path, {"/rhizome/control/1": echo, "/other": echo}):
        connection = await dial_socket(path)
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
    path = tmp_path / "s"
    left_behind = trio.socket.socket(trio.socket.AF_UNIX)
    await left_behind.bind(str(path))
    left_behind.close()
    async with serving(path, {}):
        await dial_socket(path)


async def test_a_socket_in_use_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serving(path, {"/rhizome/echo": echo}):
        with pytest.raises(HomeError, match="already running"):
            await listen_local(path, hello_only)
        await dial_socket(path)


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
    with pytest.raises(HomeError, match="no peer is running"):
        await dial_socket(tmp_path / "s")


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
