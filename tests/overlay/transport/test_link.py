"""From a channel to a connection: who is judged, what HELLO must say, and the deadline."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import Deadline, OverlayError, PeerGone, ProtocolError, VersionMismatch
from overlay.ports import SecureChannel
from overlay.system import SystemClock, SystemEntropy
from overlay.transport import frame
from overlay.transport.connection import Connection
from overlay.transport.hello import (
    HELLO_BYTES_MAX,
    Hello,
    Role,
    client_hello,
    common_version,
    decode_hello,
    encode_hello,
)
from overlay.transport.limits import (
    CLIENT_IDLE_S,
    CONNECTION_WINDOW_MIN,
    Limits,
    Windows,
)
from overlay.transport.link import CLIENT_PROTOCOLS, Judge, establish
from overlay.transport.local import StreamChannel
from overlay.transport.tls import Credentials
from security.errors import IdentityMismatch, Revoked, SecurityError
from security.peer_id import PeerId
from tests.overlay.transport.world import HERE, Overlay

OVERLAY = Overlay(now_unix_s=1_800_000_000.0)
LEFT, RIGHT = OVERLAY.host(), OVERLAY.host()


async def meet(
    left: Hello,
    right: Hello,
    *,
    left_leaf: bytes | None = LEFT.leaf,
    right_leaf: bytes | None = RIGHT.leaf,
    judge: Judge = OVERLAY.judge,
    expected: PeerId | None = None,
    allowed: str | None = None,
) -> list[Connection | Exception]:
    """Both ends' results of ``establish``; ``judge`` and ``expected`` are the left one's."""
    streams = trio.testing.memory_stream_pair()
    results: list[Connection | Exception] = [Exception(), Exception()]

    async def one(side: int, ours: Hello, leaf: bytes | None, judge: Judge) -> None:
        channel = SecureChannel(
            channel=StreamChannel(streams[side]), leaf=leaf, issuer=None, address=HERE
        )
        try:
            results[side] = await establish(
                channel,
                ours=ours,
                judge=judge,
                expected=expected if side == 0 else None,
                clock=SystemClock(),
                entropy=SystemEntropy(),
                limits=Limits(),
                allowed=allowed,
            )
        except (OverlayError, SecurityError) as error:
            results[side] = error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, 0, left, right_leaf, judge)
        nursery.start_soon(one, 1, right, left_leaf, OVERLAY.judge)
    return results


def hello(host: Credentials, **changes: object) -> Hello:
    return msgspec.structs.replace(OVERLAY.hello(host), **changes)


def a_client(overlay_id: str = OVERLAY.overlay_id) -> Hello:
    return client_hello(overlay_id=overlay_id, windows=Windows(), unix_s=1_800_000_000.0)


async def test_two_peers_know_each_other_after_hello() -> None:
    left, right = await meet(
        hello(LEFT, generation=7, zone="attic"), hello(RIGHT), expected=RIGHT.keys.peer_id
    )
    assert isinstance(left, Connection)
    assert isinstance(right, Connection)
    assert left.remote.peer_id == RIGHT.keys.peer_id
    assert right.remote.peer_id == LEFT.keys.peer_id
    assert right.remote.hello.generation == 7
    assert right.remote.hello.zone == "attic"
    assert abs(left.remote.clock_ahead_s - (1_800_000_000.0 - SystemClock().unix_s())) < 60


async def test_a_leaf_that_is_refused_hears_why_and_nothing_else() -> None:
    def judge(leaf: bytes, expected: PeerId | None) -> PeerId:
        raise Revoked("that host is revoked")

    left, right = await meet(hello(LEFT), hello(RIGHT), judge=judge)
    assert isinstance(left, Revoked)
    assert isinstance(right, PeerGone)
    assert "Revoked" in str(right)


async def test_the_peer_that_was_dialled_is_the_peer_that_answers() -> None:
    left, _ = await meet(hello(LEFT), hello(RIGHT), expected=LEFT.keys.peer_id)
    assert isinstance(left, IdentityMismatch)


@pytest.mark.parametrize(
    ("right", "left_leaf", "right_leaf"),
    [
        pytest.param(hello(LEFT), LEFT.leaf, RIGHT.leaf, id="names another than its certificate"),
        pytest.param(hello(RIGHT, peer_id=None), LEFT.leaf, RIGHT.leaf, id="names nobody"),
        pytest.param(hello(RIGHT, overlay_id="0" * 32), LEFT.leaf, RIGHT.leaf, id="overlay"),
        pytest.param(hello(RIGHT, overlay_id=""), LEFT.leaf, RIGHT.leaf, id="no overlay"),
        pytest.param(hello(RIGHT), LEFT.leaf, None, id="peer without certificate"),
        pytest.param(a_client(), LEFT.leaf, RIGHT.leaf, id="client with certificate"),
    ],
)
async def test_a_hello_that_does_not_fit_is_refused(
    right: Hello, left_leaf: bytes, right_leaf: bytes | None
) -> None:
    ours, theirs = await meet(hello(LEFT), right, left_leaf=left_leaf, right_leaf=right_leaf)
    assert isinstance(ours, ProtocolError)
    assert isinstance(theirs, Connection | PeerGone | ProtocolError)


async def test_versions_without_overlap_are_refused_by_both() -> None:
    results = await meet(hello(LEFT), hello(RIGHT, version_min=2, version_max=3))
    assert all(isinstance(result, VersionMismatch | PeerGone) for result in results)
    assert any(isinstance(result, VersionMismatch) for result in results)


def test_the_highest_common_version_is_chosen() -> None:
    assert common_version(hello(LEFT), hello(RIGHT, version_min=1, version_max=9)) == 1


async def test_a_client_may_open_client_protocols_only() -> None:
    left, right = await meet(hello(LEFT), a_client(), right_leaf=None)
    assert isinstance(left, Connection)
    assert isinstance(right, Connection)
    assert left.remote.peer_id is None
    assert left._allowed == CLIENT_PROTOCOLS
    assert right.remote.peer_id == LEFT.keys.peer_id


async def test_who_shows_no_certificate_gets_room_for_one_message_and_no_idle_time() -> None:
    left, right = await meet(hello(LEFT), a_client(), right_leaf=None)
    assert isinstance(left, Connection)
    assert isinstance(right, Connection)
    told = right.remote.hello.windows
    assert told == left._limits.windows == Limits().for_client().windows
    assert told.connection_bytes == CONNECTION_WINDOW_MIN
    assert left._limits.idle_s == CLIENT_IDLE_S
    assert right._limits == Limits()
    assert left.remote.hello.windows == Windows()


async def test_a_local_client_needs_to_know_no_overlay() -> None:
    left, right = await meet(
        hello(LEFT), a_client(""), left_leaf=None, right_leaf=None, allowed="/rhizome/"
    )
    assert isinstance(left, Connection)
    assert isinstance(right, Connection)
    assert left._allowed == "/rhizome/"
    assert right.remote.hello.windows == Windows(), "the owner of this host is no stranger"
    assert right.remote.peer_id is None


async def test_a_client_of_another_overlay_is_refused() -> None:
    left, _ = await meet(hello(LEFT), a_client("1" * 32), right_leaf=None)
    assert isinstance(left, ProtocolError)


def hello_frame(*, flags: int = 0, stream: int = 0) -> bytes:
    payload = encode_hello(hello(RIGHT))[frame.HEADER_BYTES :]
    return frame.encode(frame.HELLO, flags, stream, payload)


async def from_stranger(send: Callable[[trio.abc.Stream], Awaitable[None]]) -> Exception | None:
    """What ``establish`` raises; the stranger's channel is closed in any case."""
    ours, theirs = trio.testing.memory_stream_pair()
    channel = SecureChannel(channel=StreamChannel(ours), leaf=RIGHT.leaf, issuer=None, address=HERE)
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, theirs)
        try:
            await establish(
                channel,
                ours=hello(LEFT),
                judge=OVERLAY.judge,
                expected=None,
                clock=SystemClock(),
                entropy=SystemEntropy(),
                limits=Limits(),
            )
        except OverlayError as error:
            failure = error
        nursery.cancel_scope.cancel()
    with pytest.raises(trio.ClosedResourceError):
        await ours.send_all(b"x")
    return failure


async def test_silence_ends_at_the_deadline(autojump_clock: trio.testing.MockClock) -> None:
    async def silent(stream: trio.abc.Stream) -> None:
        await trio.sleep_forever()

    assert isinstance(await from_stranger(silent), Deadline)
    assert trio.current_time() == pytest.approx(Limits().hello_s, abs=1.1)


async def test_a_hello_that_drips_in_ends_at_the_same_deadline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def drip(stream: trio.abc.Stream) -> None:
        with suppress(trio.BrokenResourceError):
            for byte in encode_hello(hello(RIGHT)):
                await stream.send_all(bytes([byte]))
                await trio.sleep(1)

    assert isinstance(await from_stranger(drip), Deadline)
    assert trio.current_time() == pytest.approx(Limits().hello_s, abs=1.1)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", id="http"),
        pytest.param(frame.HEADER.pack(HELLO_BYTES_MAX + 1, 0, frame.HELLO, 0), id="oversized"),
        pytest.param(frame.encode(frame.HELLO, 0, 0, b"\xc1"), id="not msgpack"),
        pytest.param(frame.encode(frame.OPEN, 0, 1, b"x"), id="no hello first"),
        pytest.param(hello_frame(stream=1), id="hello on a stream"),
        pytest.param(hello_frame(flags=frame.MORE), id="hello to be continued"),
        pytest.param(hello_frame(flags=frame.OPTIONAL), id="optional hello"),
    ],
)
async def test_what_is_no_hello_is_refused_without_reading_on(data: bytes) -> None:
    async def send(stream: trio.abc.Stream) -> None:
        await stream.send_all(data)

    assert isinstance(await from_stranger(send), ProtocolError)


async def test_hanging_up_is_told_as_that() -> None:
    async def leave(stream: trio.abc.Stream) -> None:
        await stream.aclose()

    assert isinstance(await from_stranger(leave), PeerGone)


async def test_frames_behind_the_hello_are_not_lost() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    early = encode_hello(hello(RIGHT)) + frame.encode_goaway(0, 0, "changed my mind")
    await theirs.send_all(early)
    connection = await establish(
        SecureChannel(channel=StreamChannel(ours), leaf=RIGHT.leaf, issuer=None, address=HERE),
        ours=hello(LEFT),
        judge=OVERLAY.judge,
        expected=None,
        clock=SystemClock(),
        entropy=SystemEntropy(),
        limits=Limits(),
    )
    await theirs.aclose()
    await connection.run({})
    assert connection.closed == "the far side said goodbye: changed my mind"


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_a_hello_or_one_typed_error(data: bytes) -> None:
    try:
        decode_hello(data)
    except ProtocolError:
        return


def test_a_hello_from_a_later_version_may_say_more() -> None:
    sent = msgspec.to_builtins(hello(LEFT), builtin_types=(bytes,))
    sent |= {"type": "hello", "invented_later": [1, 2, 3]}
    sent["windows"] |= {"invented_later_too": 4}
    assert decode_hello(msgspec.msgpack.encode(sent)) == hello(LEFT)


def test_a_role_is_one_of_two() -> None:
    assert [role.value for role in Role] == ["peer", "client"]
