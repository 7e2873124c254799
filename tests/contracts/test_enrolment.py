"""``overlay.ports.Enrolment``: what real TLS and the simulation both keep to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import pytest
import trio
import trio.testing

from chaos.issuing import SimEnrolment
from chaos.network import Network, SimTransport
from chaos.trace import Trace
from overlay.address import Address
from overlay.errors import Deadline, OverlayError, PeerGone
from overlay.ports import Enrolment, SecureChannel
from overlay.transport.enrolment import Handle, TlsEnrolment, answer_one, serve_enrolment
from security.errors import SecurityError
from tests.overlay.transport.world import HERE, Overlay

OVERLAY, OTHER = Overlay(), Overlay(2)
ROOTS = [OVERLAY.root.der]


async def echo(request: bytes, address: Address) -> bytes:
    return b"heard " + request


async def silence(request: bytes, address: Address) -> bytes:
    await trio.sleep_forever()


class Place(Protocol):
    """Somewhere with an issuer and a host that asks it."""

    def asking(self) -> Enrolment: ...

    async def serve(self, handle: Handle, *, task_status: trio.TaskStatus[Address]) -> None: ...

    def nobody(self) -> Address: ...


class Loopback:
    def asking(self) -> Enrolment:
        return TlsEnrolment(timeout_s=0.5)

    async def serve(self, handle: Handle, *, task_status: trio.TaskStatus[Address]) -> None:
        host = OVERLAY.host()
        async with trio.open_nursery() as nursery:
            bound = await nursery.start(
                lambda task_status: serve_enrolment(
                    [HERE], handle, credentials=lambda: host, task_status=task_status
                )
            )
            task_status.started(bound[0])

    def nobody(self) -> Address:
        return Address("127.0.0.1", 1)


class Simulated:
    def __init__(self) -> None:
        self.network = Network(Trace())

    def at(self, host: str, overlay: Overlay) -> SimTransport:
        own = overlay.host()
        return SimTransport(self.network, host, own.leaf, own.issuer, own.roots)

    def asking(self) -> Enrolment:
        return SimEnrolment(self.network, "10.0.0.2")

    async def serve(self, handle: Handle, *, task_status: trio.TaskStatus[Address]) -> None:
        async def accept(channel: SecureChannel) -> None:
            await answer_one(channel.channel, channel.address, handle)

        async with trio.open_nursery() as nursery:
            listen = self.at("10.0.0.1", OVERLAY).listen
            bound = await nursery.start(listen, [Address("10.0.0.1", 0)], accept)
            task_status.started(bound[0])

    def nobody(self) -> Address:
        return Address("10.0.0.1", 1)


@pytest.fixture(params=[Loopback, Simulated])
def place(request: pytest.FixtureRequest) -> Place:
    made: Place = request.param()
    return made


@asynccontextmanager
async def issuer(place: Place, handle: Handle) -> AsyncIterator[Address]:
    async with trio.open_nursery() as nursery:
        yield await nursery.start(place.serve, handle)
        nursery.cancel_scope.cancel()


async def test_a_request_brings_its_answer_each_time(place: Place) -> None:
    async with issuer(place, echo) as address:
        enrolment = place.asking()
        for request in (b"", b"one", bytes(60_000)):
            assert await enrolment.ask(address, request, ROOTS) == b"heard " + request


async def test_nobody_there_is_an_error_that_says_so(place: Place) -> None:
    with pytest.raises(PeerGone):
        await place.asking().ask(place.nobody(), b"one", ROOTS)


async def test_a_silent_issuer_is_given_up(
    place: Place, autojump_clock: trio.testing.MockClock
) -> None:
    if isinstance(place, Loopback):
        autojump_clock.autojump_threshold = 0.2  # real sockets need real time
    async with issuer(place, silence) as address:
        with pytest.raises(Deadline):
            await place.asking().ask(address, b"one", ROOTS)


async def test_one_who_knows_nobody_hears_anybody(place: Place) -> None:
    """What it makes of the answer is its own question."""
    async with issuer(place, echo) as address:
        assert await place.asking().ask_anybody(address, b"one") == b"heard one"
        assert await place.asking().ask(address, b"one", [OTHER.root.der, *ROOTS])


async def test_an_issuer_of_another_overlay_is_not_believed(place: Place) -> None:
    async with issuer(place, echo) as address:
        with pytest.raises((SecurityError, OverlayError)):
            await place.asking().ask(address, b"one", [OTHER.root.der])
