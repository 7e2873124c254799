"""Leaving a request, or cancelling it anywhere, closes its connection and frees its place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing

from inference.errors import (
    EngineFailed,
)
from inference.remote.engine import RemoteEngine
from inference.remote.settings import RemoteKind
from inference.remote.stream import EVENTS_MAX, RemoteAnswer
from inference.request import TokenEvent
from tests.inference.remote.bench import (
    PATIENT,
    WORDS,
    ask,
    chat,
    ids_of,
    remote,
    request_for,
)
from tests.inference.remote.fake_server import FakeServer

LONG = chat(WORDS * 4)


@pytest.mark.parametrize("kind", [RemoteKind.VLLM, RemoteKind.LLAMACPP])
@pytest.mark.parametrize("events_read", [0, 1, 3])
async def test_leaving_early_closes_the_connection(kind: RemoteKind, events_read: int) -> None:
    fake = FakeServer(kind)
    fake.faults.hold_after = (4, trio.Event())
    async with remote(fake) as bench:
        request = await request_for(bench, LONG)
        async with bench.engine.submit(request) as stream:
            for _ in range(events_read):
                await anext(stream)
        load = bench.engine.load()
        assert (load.running, load.queued, load.queued_tokens) == (0, 0, 0)
        await fake.quiet()
        assert fake.left_early == 1
        fake.faults.hold_after = None
        await ask(bench, request)


async def test_leaving_a_whole_answer_closes_the_connection() -> None:
    fake = FakeServer(RemoteKind.VLLM)
    async with remote(fake, timeouts=replace(PATIENT, enter_s=0.01)) as bench:
        fake.faults.hold = trio.Event()
        async with bench.engine.submit(await request_for(bench, LONG, stream=False)):
            await bench.until(lambda: fake.answering == 1)
        await fake.quiet()
    assert fake.left_early == 1


async def test_a_request_cancelled_from_elsewhere_fails() -> None:
    fake = FakeServer(RemoteKind.VLLM)
    fake.faults.hold_after = (4, trio.Event())
    async with remote(fake) as bench:
        bench.engine.cancel("unknown")
        request = await request_for(bench, LONG)
        async with bench.engine.submit(request) as stream:
            await anext(stream)
            bench.engine.cancel(request.request_id)
            bench.engine.cancel(request.request_id)
            with pytest.raises(EngineFailed):
                [event async for event in stream]
        await fake.quiet()


class CancelAt(trio.abc.Instrument):
    """Cancels a scope when its task has run so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps
        self.scope: trio.CancelScope | None = None
        self.task: object = None

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task and self.scope is not None:
            self.left -= 1
            if self.left == 0:
                self.scope.cancel()


@pytest.mark.parametrize("stream", [True, False])
async def test_cancelling_anywhere_leaves_nothing_behind(stream: bool) -> None:
    fake = FakeServer(RemoteKind.VLLM)
    async with remote(fake) as bench:
        request = await request_for(bench, LONG, stream=stream)
        for steps in range(1, 200):
            probe = CancelAt(steps)
            trio.lowlevel.add_instrument(probe)
            with trio.CancelScope() as probe.scope:
                probe.task = trio.lowlevel.current_task()
                await ask(bench, request)
            trio.lowlevel.remove_instrument(probe)
            assert bench.engine.load().running == 0
            assert bench.engine._jobs == {}
            if not probe.scope.cancelled_caught:
                break
        else:
            pytest.fail("it was never done")
        await fake.quiet()
        assert steps > 3
        pool: Any = bench.engine._server._transport._pool
        assert pool.connections == []


async def test_cancelling_the_task_of_a_request_anywhere_closes_its_connection() -> None:
    fake = FakeServer(RemoteKind.VLLM)
    fake.faults.hold_after = (3, trio.Event())
    async with remote(fake) as bench:
        request = await request_for(bench, LONG)
        for steps in range(1, 100):
            probe = CancelAt(steps)

            async def run(job: Any, probe: CancelAt = probe) -> None:
                probe.task, probe.scope = trio.lowlevel.current_task(), job.scope
                await RemoteEngine._run(bench.engine, job)

            bench.engine._run = run  # type: ignore[method-assign]
            trio.lowlevel.add_instrument(probe)
            with trio.move_on_after(0.3) as waited:
                with pytest.raises(EngineFailed):
                    async with bench.engine.submit(request) as stream:
                        [event async for event in stream]
            trio.lowlevel.remove_instrument(probe)
            await fake.quiet()
            if waited.cancelled_caught:
                break  # so many steps are more than there are: it waited for the server
        assert steps > 5
        assert bench.engine._jobs == {}
        pool: Any = bench.engine._server._transport._pool
        assert pool.connections == []


async def test_a_slow_reader_holds_only_its_own_answer_up() -> None:
    fake = FakeServer(RemoteKind.VLLM)
    async with remote(fake) as bench:
        slow = await request_for(bench, LONG, request_id="slow", max_tokens=1000)
        async with bench.engine.submit(slow) as stream:
            await bench.until(lambda: len(stream._events) == EVENTS_MAX)
            quick = await request_for(bench, LONG, request_id="quick", max_tokens=200)
            assert len(await ask(bench, quick)) > 150
            assert len(stream._events) == EVENTS_MAX
            events = [event async for event in stream]
    assert len(ids_of(events)) == 1000


async def test_cancelling_a_wait_loses_no_event() -> None:
    answer = RemoteAnswer()
    with trio.move_on_after(0):
        await anext(answer)
    await answer.put(TokenEvent(token_ids=None, text="a"))
    with trio.move_on_after(0):
        await anext(answer)
    assert (await anext(answer)).text == "a"
