"""Helpers of the node's tests: two or three simulated hosts, one of which may misbehave.

A misbehaving host is a real node with valid keys and real gossip whose forward handler is replaced.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from chaos.simulation import run_simulation
from chaos.world import Answered, Host, World, until
from inference.toy import ToyConfig
from overlay.errors import RequestError
from overlay.forward import ForwardRequest, decode_request, encode
from overlay.request import AnswerEvent
from overlay.transport.connection import Connection
from overlay.transport.stream import Stream

FAST = ToyConfig(slots=4, prefill_tokens_per_s=5000.0, decode_s_per_token=0.02, end_every=0)
SLOW = ToyConfig(slots=4, prefill_tokens_per_s=50.0, decode_s_per_token=0.5, end_every=0)
QUESTION = "The river Lanner rises on Mount Ashby and flows north to the sea. " * 6

T = TypeVar("T")
Script = Callable[[Stream, ForwardRequest], Awaitable[None]]

__all__ = ["FAST", "QUESTION", "SLOW", "encode"]


async def everybody_ready(world: World) -> None:
    """All up, and everybody knows everybody's models and load."""

    def ready() -> bool:
        for host in world.hosts:
            node = host.running
            others = [h for h in world.hosts if h is not host]
            if len(node.peers.up()) != len(others):
                return False
            for other in others:
                peer_id = other.identity.peer_id
                told = node.knowledge.models(peer_id) and node.knowledge.load(peer_id)
                if other.engine is not None and not told:
                    return False
        return True

    await until(ready)


class Misbehaving:
    """Replaces a host's forward handler with a script; counts what reaches it."""

    def __init__(self, host: Host, script: Script) -> None:
        self.seen: list[ForwardRequest] = []
        self._script = script
        host.running.forwards = self  # type: ignore[assignment]  # stands in for ForwardHandler

    async def __call__(self, connection: Connection, stream: Stream) -> None:
        request = decode_request(stream.body)
        self.seen.append(request)
        await self._script(stream, request)


async def ask_error(world: World, host: Host, text: str, max_tokens: int = 8) -> RequestError:
    """The one error that a request ends with."""
    try:
        await world.ask(host, text, max_tokens=max_tokens)
    except RequestError as error:
        return error
    raise AssertionError("the request was answered")


def nothing_runs(host: Host) -> bool:
    """No request, engine work, booking or forward stream is left on a host."""
    node = host.running
    load = node.ports.engine.load()
    idle = not load.running and not load.queued and not node.ingress.open_requests
    now_s = node.ports.clock.now_s()
    booked = [node.router.bookings.booked(peer_id, now_s).in_flight for peer_id in node.peers.up()]
    return idle and not any(booked)


async def unwrapped(main: Callable[[], Awaitable[T]]) -> T:
    """Runs a scenario whose single failure leaves it in no group, for a readable report."""
    try:
        return await main()
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from None


def simulate(seed: int, main: Callable[[], Awaitable[T]]) -> T:
    """``run_simulation`` of an unwrapped scenario."""
    return run_simulation(seed, lambda: unwrapped(main))


def streams_open(host: Host) -> int:
    """Streams open on all of a host's connections, less gossip's one each way."""
    node = host.running
    found = [node.peers.connection(peer_id) for peer_id in node.peers.up()]
    return sum(each.statistics().streams_open - 2 for each in found if each is not None)


async def cancelled_after(
    world: World, host: Host, text: str, seconds: float, max_tokens: int
) -> list[AnswerEvent]:
    """Asks, and leaves after a virtual time; what had come by then."""
    events: list[AnswerEvent] = []
    with trio.move_on_after(seconds):
        await world.ask(host, text, max_tokens=max_tokens, events=events)
    return events


def ended_states(host: Host) -> dict[str, float]:
    """Requests of an ingress by end state, from its metrics."""
    text = host.running.metrics.text()[1].decode()
    found = {}
    for line in text.splitlines():
        if line.startswith("rhizome_requests_total{"):
            state = line.split('"')[1]
            found[state] = float(line.rsplit(" ", 1)[1])
    return found


__all__ += ["Answered"]
