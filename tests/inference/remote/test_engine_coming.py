"""A server comes and goes, is busy or hangs; the engine tells it and serves again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from inference.errors import (
    EngineFailed,
    EngineOverloaded,
    InferenceError,
    UnknownModel,
)
from inference.events import Cleared
from inference.remote.engine import Pictured, RemoteEngine
from inference.remote.preflight import Preflight
from inference.remote.settings import RemoteKind, RemoteTimeouts
from tests.inference.remote.bench import (
    WORDS,
    RemoteBench,
    ask,
    chat,
    engine_only,
    remote,
    request_for,
    secrets,
    settings_of,
)
from tests.inference.remote.fake_picture import FakePicture
from tests.inference.remote.fake_server import FakeServer

LONG = chat(WORDS * 4)


@pytest.fixture
def fast_clock() -> MockClock:
    """Ten seconds pass in one."""
    return MockClock(rate=10)


async def test_a_full_queue_refuses() -> None:
    fake = FakeServer(RemoteKind.VLLM, slots=1)
    async with remote(fake, slots=1, queue_max=1) as bench:
        requests = [await request_for(bench, LONG, request_id=str(n)) for n in range(3)]
        fake.faults.hold = hold = trio.Event()
        async with trio.open_nursery() as nursery:
            for request in requests[:2]:
                nursery.start_soon(ask, bench, request)
            await bench.until(lambda: fake.answering == 2)
            with pytest.raises(EngineOverloaded):
                await ask(bench, requests[2])
            load = bench.engine.load()
            assert (load.running, load.queued) == (1, 1)
            assert load.queued_tokens == 2 * len(requests[0].token_ids)
            hold.set()
        await ask(bench, requests[2])


async def test_rates_are_measured(fast_clock: MockClock) -> None:
    del fast_clock
    fake = FakeServer(RemoteKind.VLLM, prefill_s_per_token=0.01, decode_s_per_token=0.1)
    async with remote(fake) as bench:
        assert bench.engine.load().prefill_tokens_per_s == 0
        await ask(bench, await request_for(bench, LONG, max_tokens=10))
        load = bench.engine.load()
    assert 20 < load.prefill_tokens_per_s < 110
    assert 0.08 < load.decode_s_per_token < 0.5
    assert load.total_blocks == 80


async def test_metrics_are_looked_at(fast_clock: MockClock) -> None:
    del fast_clock
    fake = FakeServer(RemoteKind.VLLM)
    async with remote(fake) as bench:
        fake.waiting = 7
        await bench.until(lambda: bench.engine.load().queued == 7)
        assert ("tick" in [name for name, _ in bench.picture.told]) is True
        assert bench.engine.load().used_blocks == 20


@asynccontextmanager
async def engine_only_after(fake: FakeServer) -> AsyncIterator[tuple[RemoteBench, trio.Nursery]]:
    """Both run, the server in the nursery, where it can be started again."""
    async with trio.open_nursery() as nursery:
        await nursery.start(fake.serve)
        async with engine_only(fake) as bench:
            yield bench, nursery
        nursery.cancel_scope.cancel()


async def test_a_server_that_is_not_there_yet_is_waited_for(fast_clock: MockClock) -> None:
    del fast_clock
    fake = FakeServer(RemoteKind.VLLM)
    async with fake.running():
        pass
    async with engine_only(fake) as bench:
        nothing = bench.engine.capabilities()
        assert (nothing.models, nothing.slots, nothing.tokenizes) == ((), 0, False)
        assert nothing is bench.engine.capabilities()
        assert nothing.description == f"waiting for {fake.url}"
        assert bench.engine.capabilities().description == f"waiting for {fake.url}"
        assert bench.engine.posture() == []
        with pytest.raises(UnknownModel):
            await bench.engine.tokenize("toy", LONG)
        async with fake.running():
            await bench.until(lambda: bool(bench.engine.capabilities().models))
            there = bench.engine.capabilities()
            assert there is bench.engine.capabilities()
            assert there.description == f"vLLM 0.32.0 at {fake.url}"
            await ask(bench, await request_for(bench, LONG))


async def test_a_server_that_dies_takes_its_requests_models_and_cache(
    fast_clock: MockClock,
) -> None:
    del fast_clock
    fake = FakeServer(RemoteKind.VLLM)
    async with engine_only_after(fake) as (bench, nursery):
        request = await request_for(bench, LONG)
        await ask(bench, request)
        first = bench.picture
        fake.faults.hold_after = (2, trio.Event())
        async with bench.engine.submit(replace(request, request_id="broken")) as stream:
            await anext(stream)
            fake.stop()
            with pytest.raises(EngineFailed):
                [event async for event in stream]
        await bench.until(lambda: not bench.engine.capabilities().models)
        assert bench.engine.cache_events()[-1] == Cleared()
        assert bench.engine.cache_events() == []
        with pytest.raises(EngineFailed, match="away"):
            await ask(bench, request)
        assert not bench.engine.stalled()
        fake.faults.hold_after = None
        await nursery.start(fake.serve)
        await bench.until(lambda: bool(bench.engine.capabilities().models))
        events = await ask(bench, request)
        assert bench.picture is not first
    assert events[0].cached_tokens == 0


async def test_a_server_that_was_started_anew_unseen_is_noticed(fast_clock: MockClock) -> None:
    del fast_clock
    fake = FakeServer(RemoteKind.VLLM)
    async with remote(fake) as bench:
        await bench.until(lambda: "tick" in [name for name, _ in bench.picture.told])
        fake.started_s = 2.0
        await bench.until(lambda: len(bench.pictures) == 2)
        assert bench.engine.capabilities().models
        assert ("cleared", None) in bench.pictures[0].told


async def test_models_that_come_and_go_are_noticed(fast_clock: MockClock) -> None:
    del fast_clock
    fake = FakeServer(RemoteKind.OLLAMA, models=("toy",))
    async with remote(fake) as bench:

        def names() -> list[str]:
            return [model.name for model in bench.engine.capabilities().models]

        def weights() -> list[str]:
            return [model.output.weights for model in bench.engine.capabilities().models]

        fake.models = ("toy", "another")
        await bench.until(lambda: names() == ["toy", "another"])
        fake.models = ("another",)
        await bench.until(lambda: names() == ["another"])
        fake.tags = {"another": "1" * 64}
        await bench.until(lambda: weights() == ["1" * 64])


async def test_a_new_model_breaks_no_answer(fast_clock: MockClock) -> None:
    del fast_clock
    fake = FakeServer(RemoteKind.OLLAMA)
    fake.faults.hold_after = (2, hold := trio.Event())
    async with remote(fake) as bench:
        async with bench.engine.submit(await request_for(bench, LONG)) as stream:
            await anext(stream)
            fake.models = ("toy", "another")
            asked = len(fake.seen)
            await bench.until(lambda: len(fake.seen) > asked + 4)
            hold.set()
            assert [event async for event in stream][-1].finish_reason is not None
        await bench.until(lambda: len(bench.engine.capabilities().models) == 2)


@pytest.mark.parametrize("told", ["meta", "weights_file"])
async def test_another_file_under_the_same_name_is_noticed(
    told: str, fast_clock: MockClock
) -> None:
    del fast_clock
    fake = FakeServer(RemoteKind.LLAMACPP)
    async with remote(fake) as bench:
        setattr(fake, told, {"n_params": 2} if told == "meta" else "/another.gguf")
        await bench.until(lambda: len(bench.pictures) == 2)


async def test_the_one_model_that_is_wanted_may_go_and_others_are_no_matter(
    fast_clock: MockClock,
) -> None:
    del fast_clock
    fake = FakeServer(RemoteKind.OLLAMA, models=("toy",))
    async with remote(fake, model="toy") as bench:
        fake.models = ("toy", "another")
        asked = len(fake.seen)
        await bench.until(lambda: len(fake.seen) > asked + 6)
        assert len(bench.pictures) == 1
        fake.models = ("another",)
        await bench.until(lambda: "it has another" in bench.engine.capabilities().description)
        assert not bench.engine.capabilities().models


async def test_a_start_time_that_is_none_is_no_other_process(fast_clock: MockClock) -> None:
    del fast_clock
    fake = FakeServer(RemoteKind.VLLM, started_s=float("nan"))
    async with remote(fake) as bench:
        asked = len(fake.seen)
        await bench.until(lambda: len(fake.seen) > asked + 8)
        assert len(bench.pictures) == 1


async def test_a_server_that_is_not_well_for_long_is_away(fast_clock: MockClock) -> None:
    del fast_clock
    fake = FakeServer(RemoteKind.VLLM)
    async with remote(fake) as bench:
        fake.faults.unhealthy = True
        await bench.until(lambda: bench.engine.capabilities().models == ())
        assert ("cleared", None) in bench.pictures[0].told


async def test_a_server_that_hangs_is_stalled_and_a_slow_one_is_not(fast_clock: MockClock) -> None:
    del fast_clock
    fake = FakeServer(RemoteKind.VLLM)
    patient = RemoteTimeouts(enter_s=1, silent_s=3, health_s=2, first_look_s=20)
    async with remote(fake, timeouts=patient) as bench:
        request = await request_for(bench, LONG)
        fake.faults.hold_after = (2, trio.Event())
        async with bench.engine.submit(request) as stream:
            await anext(stream)
            await trio.sleep(6)
            assert not bench.engine.stalled()
            fake.faults.deaf = trio.Event()
            await bench.until(bench.engine.stalled)
            with pytest.raises(EngineFailed):
                [event async for event in stream]
        assert not bench.engine.stalled()


async def test_another_kind_of_server_is_told_and_no_model_served() -> None:
    fake = FakeServer(RemoteKind.SGLANG)
    async with remote(fake, kind=RemoteKind.VLLM) as bench:
        assert bench.engine.capabilities().models == ()
        assert "looks like SGLang" in bench.engine.capabilities().description


async def test_a_key_that_is_refused_is_told() -> None:
    fake = FakeServer(RemoteKind.VLLM, api_key="hunter2")
    async with remote(fake) as bench:
        assert bench.engine.capabilities().description == f"{fake.url} refuses our API key"


async def test_a_picture_that_cannot_be_made_is_told() -> None:
    class Unusable(InferenceError):
        pass

    def make(preflight: Preflight) -> Pictured:
        del preflight
        raise Unusable("no such endpoint")

    fake = FakeServer(RemoteKind.VLLM)
    async with fake.running(), trio.open_nursery() as nursery:
        engine = RemoteEngine(settings_of(fake), make, secret=secrets())
        await nursery.start(engine.run)
        assert "no such endpoint" in engine.capabilities().description
        assert engine.capabilities().models == ()
        nursery.cancel_scope.cancel()


async def test_what_keeps_a_picture_up_to_date_runs_while_the_server_is_there(
    fast_clock: MockClock,
) -> None:
    del fast_clock
    running = 0

    async def run() -> None:
        nonlocal running
        running += 1
        try:
            await trio.sleep_forever()
        finally:
            running -= 1

    fake = FakeServer(RemoteKind.VLLM)
    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            await nursery.start(fake.serve)
            picture = FakePicture(exact=True)
            engine = RemoteEngine(
                settings_of(fake),
                lambda _: Pictured(picture=picture, run=run),
                secret=secrets(),
            )
            await nursery.start(engine.run)
            await trio.testing.wait_all_tasks_blocked()
            assert running == 1
            exact = engine.capabilities()
            assert exact.exact_claims
            assert not exact.models[0].estimated
            picture.exact = False
            assert engine.capabilities().models[0].estimated
            fake.stop()
            while running:
                await trio.sleep(0.1)
            nursery.cancel_scope.cancel()


async def test_posture_says_what_was_found() -> None:
    async with remote(FakeServer(RemoteKind.LLAMACPP)) as bench:
        lines = dict(bench.engine.posture())
    assert lines["prompts of toy"] == "by the server's /tokenize"
    assert "isolation" not in lines
    assert lines["cache"] == "as the test believes"


async def test_a_stopped_engine_refuses() -> None:
    async with remote(FakeServer(RemoteKind.VLLM)) as bench:
        request = await request_for(bench, LONG)
        await ask(bench, request)
    with pytest.raises(EngineFailed):
        await ask(bench, request)
    assert bench.engine.cache_events()[-1] == Cleared()
    assert bench.engine.capabilities().models == ()
