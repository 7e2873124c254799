"""What ``tests/contracts/test_engine.py`` asks of every engine, asked of a remote one.

Requests have no body here, as an ingress without one sends them: they are continued from tokens.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
import trio.testing

from inference.errors import (
    ContextOverflow,
    EngineFailed,
    EngineOverloaded,
    InvalidRequest,
    UnknownModel,
)
from inference.events import BlocksStored, Cleared
from inference.remote.settings import RemoteKind
from inference.request import (
    EngineRequest,
    FinishReason,
    Namespace,
    Sampling,
    TextPrompt,
)
from overlay.ports import Engine
from tests.inference.remote.bench import RemoteBench, ask, chat, ids_of, remote, text_of
from tests.inference.remote.fake_server import FakeServer

QUEUE_MAX = 2
TEXT = "Blocks of sixteen tokens each are kept for whoever asks next, and evicted at last. "


@pytest.fixture
def fake() -> FakeServer:
    return FakeServer(RemoteKind.VLLM, slots=1)


async def request_of(
    bench: RemoteBench,
    *,
    tokens: int = 100,
    request_id: str = "r",
    namespace: str = "a",
    max_tokens: int | None = 8,
    start: int = 0,
) -> EngineRequest:
    """A greedy request whose prompt is ``tokens`` long."""
    ids = await bench.engine.tokenize("toy", TextPrompt(text=TEXT * (8 + tokens // 8)))
    assert ids is not None
    return EngineRequest(
        request_id=request_id,
        namespace=Namespace(namespace),
        chain_key=namespace.encode() * 32,
        model="toy",
        token_ids=ids[start : start + tokens],
        sampling=Sampling(seed=1, temperature=0, max_tokens=max_tokens),
        cache_salt=namespace,
    )


async def test_it_is_an_engine_and_says_what_it_can_do(fake: FakeServer) -> None:
    async with remote(fake) as bench:
        engine: Engine = bench.engine
        capabilities = engine.capabilities()
        assert [served.name for served in capabilities.models] == ["toy"]
        assert capabilities.slots >= 1
        assert capabilities.block_tokens % 16 == 0
        assert capabilities.models[0].prefix.served_model == "toy"
        load = engine.load()
        assert (load.running, load.queued, load.queued_tokens) == (0, 0, 0)
        assert not engine.stalled()
        assert all(name and words for name, words in engine.posture())


async def test_tokenizing_is_a_function_of_model_and_prompt(fake: FakeServer) -> None:
    async with remote(fake) as bench:
        tokens = await bench.engine.tokenize("toy", chat("Why? 語😀"))
        assert tokens == await bench.engine.tokenize("toy", chat("Why? 語😀"))
        assert await bench.engine.tokenize("toy", chat("Why? 語😀 Because.")) != tokens
        with pytest.raises(UnknownModel):
            await bench.engine.tokenize("another", chat("Why?"))


async def test_an_answer_has_at_most_max_tokens_and_says_why_it_ended(fake: FakeServer) -> None:
    async with remote(fake) as bench:
        for most in (1, 7):
            events = await ask(bench, await request_of(bench, max_tokens=most))
            assert len(ids_of(events)) == most
            assert events[-1].finish_reason is FinishReason.LENGTH


async def test_an_answer_can_be_continued_from_any_token(fake: FakeServer) -> None:
    async with remote(fake) as bench:
        request = await request_of(bench, max_tokens=20)
        whole = await ask(bench, request)
        assert len(ids_of(whole)) == 20
        boundaries = [0]
        for event in whole:
            boundaries.append(boundaries[-1] + len(event.token_ids or ()))
        for cut in sorted(set(boundaries)):
            emitted = ids_of(whole)[:cut]
            rest = await ask(bench, replace(request, emitted=emitted, request_id=f"cut-{cut}"))
            assert ids_of(rest) == ids_of(whole)[cut:]
            assert text_of(whole).endswith(text_of(rest))
            assert rest[-1].finish_reason is whole[-1].finish_reason


async def test_a_stop_string_ends_the_text_before_it(fake: FakeServer) -> None:
    async with remote(fake) as bench:
        request = await request_of(bench, max_tokens=20)
        text = text_of(await ask(bench, request))
        stop = text[len(text) // 2 :][:3]
        sampling = replace(request.sampling, stop=(stop,))
        events = await ask(bench, replace(request, sampling=sampling))
        assert text_of(events) == text[: text.index(stop)]
        assert events[-1].finish_reason is FinishReason.STOP


async def test_bad_requests_are_refused_on_entering(fake: FakeServer) -> None:
    async with remote(fake) as bench:
        good = await request_of(bench)
        context = bench.engine.capabilities().models[0].context_tokens
        for request, error in (
            (replace(good, model="another"), UnknownModel),
            (replace(good, token_ids=()), InvalidRequest),
            (replace(good, token_ids=(1 << 32,) * 20), InvalidRequest),
            (replace(good, token_ids=good.token_ids[:1] * context), ContextOverflow),
        ):
            with pytest.raises(error):
                async with bench.engine.submit(request):
                    pytest.fail("entered")
        async with bench.engine.submit(good):
            with pytest.raises(InvalidRequest):
                async with bench.engine.submit(good):
                    pytest.fail("entered twice")
        await ask(bench, good)


async def test_a_full_queue_refuses_and_the_waiting_are_served(fake: FakeServer) -> None:
    async with remote(fake, slots=1, queue_max=QUEUE_MAX) as bench:
        requests = [
            await request_of(bench, request_id=str(each), start=each)
            for each in range(1 + QUEUE_MAX)
        ]
        more = await request_of(bench, request_id="more")
        answers: dict[str, tuple[int, ...]] = {}
        fake.faults.hold = hold = trio.Event()

        async def caller(request: EngineRequest) -> None:
            answers[request.request_id] = ids_of(await ask(bench, request))

        async with trio.open_nursery() as nursery:
            for request in requests:
                nursery.start_soon(caller, request)
            await bench.until(lambda: fake.answering == len(requests))
            with pytest.raises(EngineOverloaded):
                async with bench.engine.submit(more):
                    pytest.fail("entered")
            hold.set()
        for request in requests:
            assert answers[request.request_id] == ids_of(await ask(bench, request))


async def test_leaving_early_frees_the_slot(fake: FakeServer) -> None:
    async with remote(fake) as bench:
        request = await request_of(bench, max_tokens=500)
        for events_read in (0, 1, 3):
            async with bench.engine.submit(request) as stream:
                for _ in range(events_read):
                    await anext(stream)
            load = bench.engine.load()
            assert (load.running, load.queued, load.queued_tokens) == (0, 0, 0)
            # The same id again at once, as by a resume: nothing of the earlier answer comes.
        await ask(bench, replace(request, sampling=replace(request.sampling, max_tokens=2)))
        await fake.quiet()


async def test_a_request_cancelled_from_elsewhere_fails(fake: FakeServer) -> None:
    async with remote(fake) as bench:
        bench.engine.cancel("unknown")
        request = await request_of(bench, max_tokens=500)
        async with bench.engine.submit(request) as stream:
            await anext(stream)
            bench.engine.cancel(request.request_id)
            bench.engine.cancel(request.request_id)
            with pytest.raises(EngineFailed):
                [event async for event in stream]
        assert bench.engine.load().running == 0


async def test_cache_events_are_drained_in_order(fake: FakeServer) -> None:
    async with remote(fake) as bench:
        request = await request_of(bench)
        await ask(bench, request)
        events = bench.engine.cache_events()
        assert [type(event) for event in events] == [BlocksStored]
        assert list(bench.engine.cache_events()) == []
        await ask(bench, request)
        assert list(bench.engine.cache_events()) == []


async def test_a_stopped_engine_refuses_and_holds_nothing(fake: FakeServer) -> None:
    async with remote(fake) as bench:
        request = await request_of(bench)
        await ask(bench, request)
    with pytest.raises(EngineFailed):
        async with bench.engine.submit(request):
            pytest.fail("entered")
    assert list(bench.engine.cache_events())[-1] == Cleared()
