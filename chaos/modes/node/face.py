"""A face of a simulated peer: clients' requests run in the peer's own nursery, and die with it."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from overlay.errors import RequestError
from overlay.node import Node
from overlay.request import AnswerEvent, Submission

EVENTS_MAX = 64
"""Events under way to a client, like a socket's buffer; then the peer waits for its reader."""


@dataclass(frozen=True, slots=True)
class Broke:
    """The request ended with an error that is none of the product's own."""

    error: str


Answer = AnswerEvent | RequestError | Broke


class Face:
    """Takes requests for one boot of a node, as its HTTP face would."""

    def __init__(self) -> None:
        self._node: Node | None = None
        self._nursery: trio.Nursery | None = None

    async def serve(
        self, node: Node, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serves until cancelled."""
        async with trio.open_nursery() as nursery:
            self._node, self._nursery = node, nursery
            task_status.started()
            await trio.sleep_forever()

    def submit(
        self, submission: Submission
    ) -> tuple[trio.MemoryReceiveChannel[Answer], trio.CancelScope]:
        """Begins a request.

        Returns:
            Its events, which end without a last one when the peer is gone; and a scope whose
            cancellation is the client hanging up.

        Raises:
            ConnectionRefusedError: When nobody listens (any more).
        """
        node, nursery = self._node, self._nursery
        if node is None or nursery is None or nursery.cancel_scope.cancel_called:
            raise ConnectionRefusedError("nobody listens")
        if node.draining:
            raise ConnectionRefusedError("the peer is leaving")
        out, events = trio.open_memory_channel[Answer](EVENTS_MAX)
        scope = trio.CancelScope()
        nursery.start_soon(self._handle, node, submission, out, scope)
        return events, scope

    async def _handle(
        self,
        node: Node,
        submission: Submission,
        out: trio.MemorySendChannel[Answer],
        scope: trio.CancelScope,
    ) -> None:
        with scope, out:
            try:
                await _answer(node, submission, out)
            except trio.BrokenResourceError:
                return  # the client has hung up
            except RequestError as error:
                await _last(out, error)
            except Exception as error:  # noqa: BLE001 - whatever it is, a client would see a failure
                await _last(out, Broke(f"{type(error).__name__}: {error}"[:200]))


async def _answer(node: Node, submission: Submission, out: trio.MemorySendChannel[Answer]) -> None:
    async with node.ingress.open(submission) as answer:
        async for event in answer:
            await out.send(event)


async def _last(out: trio.MemorySendChannel[Answer], event: Answer) -> None:
    try:
        await out.send(event)
    except trio.BrokenResourceError:
        return  # nobody is left to hear of it
