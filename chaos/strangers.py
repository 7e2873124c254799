"""Hosts that belong to no overlay, or to another one: what they send to a peer's listening port.

One stranger is one connection from an address of its own: with no certificate, as a client has
none, or with one of another overlay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import cast

import trio

from chaos.clock import SIMULATION_EPOCH_UNIX_S
from chaos.entropy import SeededEntropy
from chaos.founding import found
from chaos.network import Network, SimTransport
from overlay.address import Address
from overlay.errors import OverlayError
from overlay.identity import Identity
from overlay.ports import ByteChannel
from overlay.transport import frame
from overlay.transport.hello import client_hello, encode_hello
from overlay.transport.limits import Windows
from security.errors import SecurityError

DIAL_S = 5.0
WAIT_S = 8.0
"""For the far side to hang up; a peer waits 5 s for a HELLO."""

HOLD_S = 1.0
"""A connection of a flood is kept for so long, and left."""

UNDER_WAY_MAX = 64
"""Connections of a flood at a time: its strangers are let no more."""

FRAMES_MAX = 64


@dataclass(eq=False)
class Strangers:
    """Connections to peers of one network; every draw comes from ``rng``."""

    network: Network
    rng: Random
    overlay_id: str
    made: int = 0
    under_way: int = 0
    _other: Identity | None = None

    async def _dial(self, address: Address, *, certified: bool) -> ByteChannel | None:
        """A channel to a peer; None where there is none to be had."""
        self.made += 1
        host = f"10.66.{self.made // 250 % 250}.{self.made % 250 + 1}"
        leaf, issuer = cast("bytes", None), cast("bytes", None)
        if certified:
            other = self._other_identity()
            leaf, issuer = other.leaf, other.issuer
        transport = SimTransport(self.network, host, leaf, issuer, None)
        try:
            with trio.fail_after(DIAL_S):
                return (await transport.dial(address, None)).channel
        except (OSError, trio.BrokenResourceError, trio.TooSlowError, SecurityError):
            return None

    def _other_identity(self) -> Identity:
        """A host of an overlay that nobody here has heard of."""
        if self._other is None:
            _, identities = found(
                {"10.66.0.1": ("strangers",)},
                ("strangers",),
                entropy=lambda purpose: SeededEntropy(0, f"strangers {purpose}"),
                now_unix_s=SIMULATION_EPOCH_UNIX_S,
            )
            self._other = identities["10.66.0.1"]
        return self._other

    def _hello(self) -> bytes:
        """A client's HELLO, as it should be."""
        return encode_hello(
            client_hello(
                overlay_id=self.overlay_id,
                windows=Windows(),
                unix_s=SIMULATION_EPOCH_UNIX_S + trio.current_time(),
            )
        )

    async def garbage(
        self, address: Address, size_bytes: int, on_effect: Callable[[], None]
    ) -> None:
        """Sends random bytes, with or without a HELLO before them, and waits for the end."""
        kind = self.rng.randrange(3)
        certified = self.rng.random() < 0.25
        data = b"" if kind == 0 else self._hello()
        if kind == 2:
            data += b"".join(self._frames(size_bytes))
        else:
            data += self.rng.randbytes(size_bytes)
        channel = await self._dial(address, certified=certified)
        if channel is not None:
            await _say(channel, data, on_effect)

    def _frames(self, size_bytes: int) -> Iterator[bytes]:
        """Frames that are well formed, of any kind, for any stream, with random content."""
        left = size_bytes
        for _ in range(FRAMES_MAX):
            payload = self.rng.randbytes(self.rng.randrange(min(left, 2048) + 1))
            kind = self.rng.randrange(1, 12)
            stream = self.rng.choice((0, 1, 2, 3, frame.STREAM_ID_MAX))
            yield frame.encode(kind, self.rng.randrange(256), stream, payload)
            left -= len(payload) + frame.HEADER_BYTES
            if left <= 0:
                return

    async def drip(self, address: Address, gap_s: float, on_effect: Callable[[], None]) -> None:
        """Says a HELLO one byte at a time, and hears whether that is borne; returns at the end."""
        channel = await self._dial(address, certified=self.rng.random() < 0.25)
        if channel is None:
            await trio.sleep(gap_s)
            return
        ended = False

        async def listen() -> None:
            nonlocal ended
            try:
                while await channel.receive_some():
                    pass
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            ended = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            try:
                for byte in self._hello():
                    await channel.send_all(bytes([byte]))
                    await trio.sleep(gap_s)
                    if ended:
                        on_effect()
                        break
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                on_effect()
            finally:
                nursery.cancel_scope.cancel()
                await _close(channel)

    async def knock(self, address: Address, on_effect: Callable[[], None]) -> None:
        """Connects, says who it is or not, and leaves after a moment; not while too many do."""
        if self.under_way >= UNDER_WAY_MAX:
            return
        self.under_way += 1
        try:
            await self._knock(address, on_effect)
        finally:
            self.under_way -= 1

    async def _knock(self, address: Address, on_effect: Callable[[], None]) -> None:
        channel = await self._dial(address, certified=False)
        if channel is None:
            return
        on_effect()
        try:
            if self.rng.random() < 0.5:
                await channel.send_all(self._hello())
            await trio.sleep(HOLD_S)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        finally:
            await _close(channel)


async def _say(channel: ByteChannel, data: bytes, on_effect: Callable[[], None]) -> None:
    try:
        await channel.send_all(data)
        on_effect()
        with trio.move_on_after(WAIT_S):
            while await channel.receive_some():
                pass
    except (trio.BrokenResourceError, trio.ClosedResourceError, OverlayError):
        return
    finally:
        await _close(channel)


async def _close(channel: ByteChannel) -> None:
    with trio.CancelScope(shield=True), trio.move_on_after(1.0):
        await channel.aclose()
