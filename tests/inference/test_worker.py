"""The worker: streams, cancellation, failure, shutdown; on a scripted core and a real one."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest
import trio
import trio.testing

from inference.core import StepResult
from inference.errors import EngineFailed, EngineOverloaded, InvalidRequest, UnknownModel
from inference.events import BlockHash, BlocksStored, CacheEvent, Cleared
from inference.none import NoCore, no_engine
from inference.request import (
    EngineLoad,
    EngineRequest,
    EngineUsage,
    FinishReason,
    Namespace,
    Sampling,
    TextPrompt,
    TokenEvent,
)
from inference.void import KEPT_MAX, VoidChains
from inference.worker import (
    FAILURES_MAX,
    LEAVE_S,
    STREAM_EVENTS_MAX,
    AnswerStream,
    EngineWorker,
)
from tests.inference.bench import Bench


def request(
    name: str, max_tokens: int = 3, token_ids: Sequence[int] = (1, 2, 3), model: str = "m"
) -> EngineRequest:
    return EngineRequest(
        request_id=name,
        namespace=Namespace("a"),
        chain_key=bytes(32),
        model=model,
        token_ids=tuple(token_ids),
        sampling=Sampling(seed=0, temperature=0, max_tokens=max_tokens),
    )


class ScriptedCore(NoCore):
    """Counts up for each request, a token a step; breaks when told to."""

    def __init__(
        self, *, step_s: float = 1.0, fail: int = 0, refuse: Exception | None = None
    ) -> None:
        self.running: dict[str, list[int]] = {}
        self.cancelled: list[str] = []
        self.step_s = step_s
        self.fail = fail
        self.refuse = refuse
        self.resets = 0
        self.closed = 0
        self.steps = 0
        self.during_step = lambda: None
        self.in_step = False
        self.drops: list[Namespace] = []

    def add(self, request: EngineRequest) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.running[request.request_id] = [0, request.sampling.max_tokens]

    def cancel(self, request_id: str) -> None:
        self.cancelled.append(request_id)
        self.running.pop(request_id, None)

    def has_work(self) -> bool:
        return bool(self.running)

    def load(self) -> EngineLoad:
        return EngineLoad(
            running=len(self.running),
            queued=0,
            queued_tokens=0,
            prefill_tokens_per_s=0,
            decode_s_per_token=0,
            used_blocks=0,
            total_blocks=0,
        )

    def step(self) -> StepResult:
        self.steps += 1
        self.in_step = True
        self.during_step()
        self.in_step = False
        if self.fail:
            self.fail -= 1
            raise RuntimeError("device lost")
        events = []
        for name, state in list(self.running.items()):
            state[0] += 1
            last = state[0] >= state[1]
            if last:
                del self.running[name]
            events.append(
                (
                    name,
                    TokenEvent(
                        token_ids=(state[0],),
                        text=f"{state[0]} ",
                        cached_tokens=0 if state[0] == 1 else None,
                        finish_reason=FinishReason.LENGTH if last else None,
                    ),
                )
            )
        return StepResult(events=tuple(events), failed=(), virtual_s=self.step_s)

    def cache_events(self) -> tuple[CacheEvent, ...]:
        stored = BlocksStored(
            namespace=Namespace("a"), parent=None, depth=0, blocks=(BlockHash(bytes(16)),)
        )
        return (stored,) if self.steps else ()

    def drop(self, namespace: Namespace) -> None:
        assert not self.in_step
        self.drops.append(namespace)

    def reset(self) -> None:
        self.resets += 1
        self.running.clear()

    def close(self) -> None:
        self.closed += 1


async def collect(worker: EngineWorker, name: str, max_tokens: int = 3) -> list[TokenEvent]:
    async with worker.submit(request(name, max_tokens)) as stream:
        return [event async for event in stream]


async def test_events_come_after_their_virtual_time(autojump_clock: trio.testing.MockClock) -> None:
    worker = EngineWorker(ScriptedCore(step_s=2.0), in_thread=False)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        began_s = trio.current_time()
        async with worker.submit(request("r")) as stream:
            times = [trio.current_time() - began_s async for _ in stream]
        assert times == [2.0, 4.0, 6.0]
        nursery.cancel_scope.cancel()


async def test_many_requests_share_the_steps(autojump_clock: trio.testing.MockClock) -> None:
    worker = EngineWorker(ScriptedCore(), in_thread=False)
    answers: dict[str, list[TokenEvent]] = {}

    async def ask(name: str, count: int) -> None:
        answers[name] = await collect(worker, name, count)

    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        async with trio.open_nursery() as asking:
            for number in range(1, 6):
                asking.start_soon(ask, f"r{number}", number)
        nursery.cancel_scope.cancel()
    for number in range(1, 6):
        ids = [token for event in answers[f"r{number}"] for token in event.token_ids]
        assert ids == list(range(1, number + 1))


async def test_leaving_early_cancels_and_frees_the_slot(
    autojump_clock: trio.testing.MockClock,
) -> None:
    core = ScriptedCore()
    worker = EngineWorker(core, in_thread=False)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        async with worker.submit(request("r", 100)) as stream:
            await anext(stream)
        assert core.cancelled == ["r"]
        assert not core.running
        await collect(worker, "r")
        nursery.cancel_scope.cancel()


async def test_finished_request_is_not_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    core = ScriptedCore()
    worker = EngineWorker(core, in_thread=False)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        await collect(worker, "r")
        assert core.cancelled == []
        nursery.cancel_scope.cancel()


async def test_cancel_from_elsewhere_ends_the_stream_with_an_error(
    autojump_clock: trio.testing.MockClock,
) -> None:
    worker = EngineWorker(ScriptedCore(), in_thread=False)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        async with worker.submit(request("r", 100)) as stream:
            await anext(stream)
            worker.cancel("r")
            worker.cancel("unknown")
            with pytest.raises(EngineFailed, match="cancelled"):
                await anext(stream)
        nursery.cancel_scope.cancel()


async def test_cancelling_a_wait_loses_no_event(autojump_clock: trio.testing.MockClock) -> None:
    worker = EngineWorker(ScriptedCore(), in_thread=False)
    got: list[TokenEvent] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        async with worker.submit(request("r", 10)) as stream:
            while not got or got[-1].finish_reason is None:
                with trio.move_on_after(0.3):
                    got.append(await anext(stream))
        nursery.cancel_scope.cancel()
    assert [event.token_ids for event in got] == [(n,) for n in range(1, 11)]


async def test_slow_reader_gets_everything_in_bounded_memory(
    autojump_clock: trio.testing.MockClock,
) -> None:
    worker = EngineWorker(ScriptedCore(), in_thread=False)
    count = STREAM_EVENTS_MAX * 4
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        async with worker.submit(request("r", count)) as stream:
            await trio.sleep(count + 10)
            assert len(stream._events) == STREAM_EVENTS_MAX
            events = [event async for event in stream]
        nursery.cancel_scope.cancel()
    assert [t for event in events for t in event.token_ids] == list(range(1, count + 1))
    assert "".join(event.text for event in events) == "".join(f"{n} " for n in range(1, count + 1))
    assert [event.finish_reason for event in events[:-1]] == [None] * (len(events) - 1)
    assert events[-1].finish_reason is FinishReason.LENGTH
    assert events[0].cached_tokens == 0


@pytest.mark.parametrize("error", [InvalidRequest("x"), UnknownModel("x"), EngineOverloaded("x")])
async def test_refusals_are_raised_on_entering(error: Exception) -> None:
    worker = EngineWorker(ScriptedCore(refuse=error), in_thread=False)
    with pytest.raises(type(error)):
        async with worker.submit(request("r")):
            pass


async def test_two_requests_of_one_id_are_refused(autojump_clock: trio.testing.MockClock) -> None:
    worker = EngineWorker(ScriptedCore(), in_thread=False)
    async with worker.submit(request("r")):
        with pytest.raises(InvalidRequest):
            async with worker.submit(request("r")):
                pass


async def test_failed_step_fails_all_and_the_engine_goes_on_clean(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    core = ScriptedCore(fail=1)
    worker = EngineWorker(core, in_thread=False)
    failures: list[str] = []

    async def ask(name: str) -> None:
        with pytest.raises(EngineFailed, match=r"RuntimeError at test_worker\.py:\d+$"):
            await collect(worker, name)
        failures.append(name)

    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as asking:
            asking.start_soon(ask, "a")
            asking.start_soon(ask, "b")
            await trio.testing.wait_all_tasks_blocked()
            await nursery.start(worker.run)
        assert sorted(failures) == ["a", "b"]
        # What it says may quote a request, and it goes to all of them.
        assert "device lost" not in caplog.text
        assert "RuntimeError at test_worker.py" in caplog.text
        assert core.resets == 1
        assert len(await collect(worker, "c")) == 3
        nursery.cancel_scope.cancel()


async def test_engine_that_fails_again_and_again_is_given_up_with_the_reason(
    autojump_clock: trio.testing.MockClock,
) -> None:
    core = ScriptedCore(fail=FAILURES_MAX)
    worker = EngineWorker(core, in_thread=False)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        for number in range(FAILURES_MAX):
            with pytest.raises(EngineFailed):
                await collect(worker, f"r{number}")
        with pytest.raises(EngineFailed, match=r"in a row.*RuntimeError at test_worker"):
            await collect(worker, "again")
        assert core.closed == 1
        assert worker.cache_events() == [Cleared()]
        assert worker.cache_events() == []
        nursery.cancel_scope.cancel()


async def test_engine_that_cannot_restart_is_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    core = ScriptedCore(fail=1)

    def broken() -> None:
        raise OSError("gone")

    core.reset = broken
    worker = EngineWorker(core, in_thread=False)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        with pytest.raises(EngineFailed):
            await collect(worker, "r")
        with pytest.raises(EngineFailed, match="cannot restart"):
            await collect(worker, "r")
        nursery.cancel_scope.cancel()


async def test_stopping_ends_every_stream_and_closes_the_core(
    autojump_clock: trio.testing.MockClock,
) -> None:
    core = ScriptedCore()
    worker = EngineWorker(core, in_thread=False)
    async with trio.open_nursery() as asking:

        async def ask() -> None:
            with pytest.raises(EngineFailed, match="stopped"):
                await collect(worker, "r", 100)

        asking.start_soon(ask)
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.run)
            await trio.sleep(5)
            nursery.cancel_scope.cancel()
    assert core.closed == 1
    with pytest.raises(EngineFailed, match="stopped"):
        await collect(worker, "late")


class Gate:
    """Holds a step in its thread until it is let go."""

    def __init__(self, core: ScriptedCore) -> None:
        self.entered, self.go = threading.Event(), threading.Event()
        core.step_s = 0.0
        core.during_step = self._hold

    def _hold(self) -> None:
        self.entered.set()
        assert self.go.wait(10)

    async def wait_entered(self) -> None:
        await trio.to_thread.run_sync(self.entered.wait, 10)


async def test_step_runs_in_a_thread_and_cancellation_waits_for_it() -> None:
    core = ScriptedCore()
    gate = Gate(core)
    worker = EngineWorker(core, in_thread=True)
    left = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)

        async def ask_and_leave() -> None:
            with trio.CancelScope() as scope:
                async with worker.submit(request("r", 100)):
                    await gate.wait_entered()
                    scope.cancel()
            left.set()

        nursery.start_soon(ask_and_leave)
        await gate.wait_entered()
        await trio.testing.wait_all_tasks_blocked()
        # In the middle of the step the core is not touched and nothing is drained from it.
        assert core.cancelled == []
        assert worker.cache_events() == []
        assert not left.is_set()
        gate.go.set()
        await left.wait()
        assert core.cancelled == ["r"]
        assert len(worker.cache_events()) >= 1
        nursery.cancel_scope.cancel()


async def test_stopping_waits_for_the_step_in_flight() -> None:
    core = ScriptedCore()
    gate = Gate(core)
    worker = EngineWorker(core, in_thread=True)
    ended: list[str] = []

    async def run(task_status: trio.TaskStatus[None]) -> None:
        await worker.run(task_status=task_status)

    async def ask() -> None:
        with pytest.raises(EngineFailed):
            await collect(worker, "r", 100)
        ended.append("ask")

    async with trio.open_nursery() as asking:
        asking.start_soon(ask)
        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            await gate.wait_entered()
            nursery.cancel_scope.cancel()
            assert core.closed == 0
            threading.Timer(0.05, gate.go.set).start()
        assert core.closed == 1
    assert ended == ["ask"]


async def test_tiny_model_answers_through_the_worker(tiny: Bench) -> None:
    alone = tiny.cold(range(2, 60), max_tokens=12)
    tiny.core.reset()
    worker = EngineWorker(tiny.core, in_thread=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        async with worker.submit(request("x", 12, range(2, 60), tiny.model)) as stream:
            events = [event async for event in stream]
        assert tuple(t for e in events for t in e.token_ids) == alone.token_ids
        async with worker.submit(request("y", 500, range(2, 60), tiny.model)) as stream:
            await anext(stream)
        load = worker.load()
        assert (load.running, load.queued) == (0, 0)
        assert worker.cache_events()
        nursery.cancel_scope.cancel()


async def test_no_engine_serves_nothing() -> None:
    worker = no_engine()
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        assert worker.capabilities().models == ()
        assert not worker.capabilities().tokenizes
        with pytest.raises(UnknownModel):
            await worker.tokenize("m", TextPrompt(text="x"))
        with pytest.raises(UnknownModel):
            async with worker.submit(request("r")):
                pass
        assert worker.cache_events() == []
        assert worker.load().total_blocks == 0
        nursery.cancel_scope.cancel()


async def test_leaving_does_not_wait_for_a_step_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a client whose time is up hears of it :data:`LEAVE_S` later."""
    monkeypatch.setattr("inference.worker.STALLED_MIN_S", 0.2)
    core = ScriptedCore()
    worker = EngineWorker(core, in_thread=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        await collect(worker, "before")
        gate = Gate(core)
        with trio.fail_after(LEAVE_S / 2):
            async with worker.submit(request("r", 1)):
                await gate.wait_entered()
        assert "r" not in core.cancelled
        gate.go.set()
        while "r" not in core.cancelled:
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_step_that_hangs_in_its_thread_is_told_while_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("inference.worker.STALLED_MIN_S", 0.5)
    core = ScriptedCore()
    worker = EngineWorker(core, in_thread=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        await collect(worker, "before")
        gate = Gate(core)
        async with worker.submit(request("r", 1)) as stream:
            await gate.wait_entered()
            assert not worker.stalled()
            while not worker.stalled():
                await trio.sleep(0.01)
            gate.go.set()
            assert [event async for event in stream]
            assert not worker.stalled()
        nursery.cancel_scope.cancel()


def test_a_slow_readers_events_are_joined_but_a_servers_own_json_is_not() -> None:
    plain, chunked = AnswerStream(), AnswerStream()
    for number in range(3 * STREAM_EVENTS_MAX):
        plain.put(TokenEvent(token_ids=(number,), text="a"))
        chunked.put(TokenEvent(token_ids=None, text="a", chunk=b"%d" % number))
    usage = EngineUsage(prompt_tokens=1, completion_tokens=2)
    plain.put(TokenEvent(token_ids=(), text="", finish_reason=FinishReason.STOP, usage=usage))
    assert len(plain._events) == STREAM_EVENTS_MAX
    assert plain._events[-1].usage == usage
    assert [event.chunk for event in chunked._events] == [
        b"%d" % number for number in range(3 * STREAM_EVENTS_MAX)
    ]


async def test_what_is_void_is_dropped_after_the_step_in_flight_and_again_with_its_requests() -> (
    None
):
    core = ScriptedCore()
    worker = EngineWorker(core, in_thread=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        gate = Gate(core)
        async with worker.submit(request("r", 1)) as stream:
            await gate.wait_entered()
            worker.drop(Namespace("a"), request("r").chain_key)
            assert core.drops == []
            gate.go.set()
            assert [event async for event in stream]
            assert core.drops == [Namespace("a")]
        assert core.drops == [Namespace("a")] * 2, "what it left goes with it"
        async with worker.submit(replace(request("s", 1), chain_key=bytes([1]) * 32)) as stream:
            assert [event async for event in stream]
        assert len(core.drops) == 2, "requests with the new key keep theirs"
        nursery.cancel_scope.cancel()


def test_void_chain_keys_are_bounded() -> None:
    void = VoidChains()
    for number in range(KEPT_MAX + 1):
        void.add(number.to_bytes(32, "big"))
    assert bytes(32) not in void
    assert KEPT_MAX.to_bytes(32, "big") in void
