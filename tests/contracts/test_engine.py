"""The contract of ``overlay.ports.Engine``, for every engine behind its worker.

The toy engine runs under virtual time; the embedded one computes in a thread, with a tiny random
model everywhere and with the real one under the marker ``model``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from inference.blocks import BlockChain
from inference.core import EngineCore
from inference.errors import (
    ContextOverflow,
    EngineFailed,
    EngineOverloaded,
    InvalidRequest,
    UnknownModel,
)
from inference.events import BlocksEvicted, BlocksStored, CacheEvent, Cleared
from inference.request import (
    ChatPrompt,
    EngineRequest,
    FinishReason,
    Message,
    Namespace,
    Sampling,
    TextPrompt,
    TokenEvent,
)
from inference.toy import ToyConfig, ToyEngine
from inference.worker import EngineWorker
from overlay.ports import Engine
from tests.inference.bench import save_tiny_llama

QUEUE_MAX = 2
TEXT = "Blocks of sixteen tokens each are kept for whoever asks next, and evicted at last. "


class KeptCore:
    """A core that outlives its worker, as loading a model takes seconds: closing it empties it."""

    def __init__(self, core: EngineCore) -> None:
        self._core = core

    def __getattr__(self, name: str) -> object:
        return getattr(self._core, name)

    def close(self) -> None:
        self._core.reset()
        self._core.cache_events()


@dataclass(frozen=True, kw_only=True)
class Subject:
    """An engine under test. ``core`` gives one with a queue of two and nothing cached."""

    core: Callable[[], EngineCore]
    in_thread: bool
    every_cut: bool

    def run(self, scenario: Callable[[Engine, str], Awaitable[None]]) -> None:
        """Runs a scenario against the engine and the name of its model."""

        async def main() -> None:
            worker = EngineWorker(self.core(), in_thread=self.in_thread)
            async with running(worker):
                await scenario(worker, worker.capabilities().models[0].name)

        # Virtual time would pass while a thread computes.
        clock = None if self.in_thread else MockClock(autojump_threshold=0)
        trio.run(main, clock=clock)


@asynccontextmanager
async def running(worker: EngineWorker) -> AsyncIterator[None]:
    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.run)
            yield
            nursery.cancel_scope.cancel()


def embedded_core(model: str | None, kv_cache_bytes: int) -> EngineCore:
    from inference.embedded import EngineSettings, load_engine

    settings = EngineSettings(
        model=model,
        device="cpu",
        dtype="float32",
        threads=1,
        kv_cache_bytes=kv_cache_bytes,
        queue_max=QUEUE_MAX,
    )
    return load_engine(settings)


@pytest.fixture(
    scope="module", params=["toy", "tiny", pytest.param("real", marks=pytest.mark.model)]
)
def subject(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Subject]:
    if request.param == "toy":
        config = ToyConfig(
            slots=1, total_blocks=512, context_tokens=2048, queue_max=QUEUE_MAX, end_every=0
        )
        yield Subject(core=lambda: ToyEngine(config), in_thread=False, every_cut=True)
        return
    folder: Path | None = None
    if request.param == "tiny":
        folder = tmp_path_factory.mktemp("models") / "tiny"
        folder.mkdir()
        save_tiny_llama(folder)
    core = embedded_core(str(folder) if folder else None, (4 if folder else 256) << 20)
    kept: EngineCore = KeptCore(core)  # type: ignore[assignment] - it passes the rest on
    yield Subject(core=lambda: kept, in_thread=True, every_cut=False)
    core.close()


async def request_of(
    engine: Engine,
    model: str,
    *,
    tokens: int = 100,
    request_id: str = "r",
    namespace: str = "a",
    max_tokens: int | None = 8,
    start: int = 0,
) -> EngineRequest:
    """A greedy request whose prompt is ``tokens`` long."""
    token_ids = await engine.tokenize(model, TextPrompt(text=TEXT * (8 + tokens // 8)))
    assert token_ids is not None
    return EngineRequest(
        request_id=request_id,
        namespace=Namespace(namespace),
        chain_key=namespace.encode() * 32,
        model=model,
        token_ids=token_ids[start : start + tokens],
        sampling=Sampling(seed=1, temperature=0, max_tokens=max_tokens),
    )


async def ask(engine: Engine, request: EngineRequest) -> list[TokenEvent]:
    """The whole answer; asserts what holds for every stream of events."""
    async with engine.submit(request) as stream:
        events = [event async for event in stream]
    assert events[0].cached_tokens is not None
    assert all(event.cached_tokens is None for event in events[1:])
    assert events[-1].finish_reason is not None
    assert all(event.finish_reason is None for event in events[:-1])
    return events


def ids_of(events: list[TokenEvent]) -> tuple[int, ...]:
    return tuple(token for event in events for token in event.token_ids or ())


def text_of(events: list[TokenEvent]) -> str:
    return "".join(event.text for event in events)


def test_it_says_what_it_can_do(subject: Subject) -> None:
    async def scenario(engine: Engine, model: str) -> None:
        capabilities = engine.capabilities()
        assert [served.name for served in capabilities.models] == [model]
        assert capabilities.slots >= 1
        assert capabilities.block_tokens % 16 == 0
        assert capabilities.models[0].prefix.served_model == model
        load = engine.load()
        assert (load.running, load.queued, load.queued_tokens, load.used_blocks) == (0, 0, 0, 0)
        assert load.total_blocks > 0
        await trio.lowlevel.checkpoint()

    subject.run(scenario)


def test_tokenizing_is_a_function_of_model_and_prompt(subject: Subject) -> None:
    async def scenario(engine: Engine, model: str) -> None:
        chat = ChatPrompt(messages=(Message(role="user", content="Why? 語😀"),))
        tokens = await engine.tokenize(model, chat)
        assert tokens == await engine.tokenize(model, chat)
        longer = ChatPrompt(messages=(Message(role="user", content="Why? 語😀 Because."),))
        assert await engine.tokenize(model, longer) != tokens
        with pytest.raises(UnknownModel):
            await engine.tokenize("another", chat)
        await trio.lowlevel.checkpoint()

    subject.run(scenario)


def test_an_answer_has_at_most_max_tokens_and_says_why_it_ended(subject: Subject) -> None:
    async def scenario(engine: Engine, model: str) -> None:
        for max_tokens in (1, 8):
            events = await ask(engine, await request_of(engine, model, max_tokens=max_tokens))
            reason = events[-1].finish_reason
            assert len(ids_of(events)) == max_tokens or reason is FinishReason.STOP
            assert len(ids_of(events)) <= max_tokens
            assert (engine.load().running, engine.load().queued) == (0, 0)

    subject.run(scenario)


@pytest.mark.parametrize("tokens", [1, 16, 17, 33, 96])
def test_a_warm_answer_equals_the_cold_one_and_counts_its_cached_tokens(
    subject: Subject, tokens: int
) -> None:
    async def scenario(engine: Engine, model: str) -> None:
        request = await request_of(engine, model, tokens=tokens)
        cold, warm = await ask(engine, request), await ask(engine, request)
        assert cold[0].cached_tokens == 0
        assert warm[0].cached_tokens == (tokens - 1) // 16 * 16
        assert ids_of(warm) == ids_of(cold)
        assert text_of(warm) == text_of(cold)

    subject.run(scenario)


def test_tenants_never_hit_each_others_blocks(subject: Subject) -> None:
    async def scenario(engine: Engine, model: str) -> None:
        first = await ask(engine, await request_of(engine, model, namespace="a"))
        second = await ask(engine, await request_of(engine, model, namespace="b"))
        assert second[0].cached_tokens == 0
        assert ids_of(second) == ids_of(first)
        stored = [each for each in engine.cache_events() if isinstance(each, BlocksStored)]
        names = [{b for e in stored if e.namespace == n for b in e.blocks} for n in ("a", "b")]
        assert names[0]
        assert not names[0] & names[1]

    subject.run(scenario)


def test_a_resumed_answer_goes_on_identically(subject: Subject) -> None:
    async def scenario(engine: Engine, model: str) -> None:
        request = await request_of(engine, model, max_tokens=20)
        whole = await ask(engine, request)
        cuts = range(len(whole)) if subject.every_cut else (1, 12)
        for cut in cuts:
            resumed = replace(request, emitted=ids_of(whole[:cut]), request_id=f"cut-{cut}")
            rest = await ask(engine, resumed)
            assert ids_of(rest) == ids_of(whole[cut:])
            assert text_of(rest) == text_of(whole[cut:])
            assert rest[-1].finish_reason is whole[-1].finish_reason
        over = await ask(engine, replace(request, emitted=ids_of(whole), request_id="over"))
        assert ids_of(over) == ()
        assert over[-1].finish_reason is whole[-1].finish_reason

    subject.run(scenario)


def test_a_stop_string_ends_the_text_before_it(subject: Subject) -> None:
    async def scenario(engine: Engine, model: str) -> None:
        request = await request_of(engine, model, max_tokens=20)
        text = text_of(await ask(engine, request))
        stop = text[len(text) // 2 :][:3]
        sampling = replace(request.sampling, stop=(stop,))
        events = await ask(engine, replace(request, sampling=sampling))
        assert stop
        assert text_of(events) == text[: text.index(stop)]
        assert events[-1].finish_reason is FinishReason.STOP

    subject.run(scenario)


def test_sampling_repeats_with_the_seed(subject: Subject) -> None:
    async def scenario(engine: Engine, model: str) -> None:
        request = await request_of(engine, model, max_tokens=16)
        answers = []
        for seed in (5, 5, 6):
            sampling = replace(request.sampling, seed=seed, temperature=1.5)
            answers.append(ids_of(await ask(engine, replace(request, sampling=sampling))))
        assert answers[0] == answers[1] != answers[2]

    subject.run(scenario)


def test_bad_requests_are_refused_on_entering(subject: Subject) -> None:
    async def scenario(engine: Engine, model: str) -> None:
        good = await request_of(engine, model)
        context = engine.capabilities().models[0].context_tokens
        too_long = replace(good.sampling, max_tokens=context)
        bad = [
            (replace(good, model="another"), UnknownModel),
            (replace(good, token_ids=()), InvalidRequest),
            (replace(good, token_ids=(1 << 31,) * 20), InvalidRequest),
            (replace(good, token_ids=(*good.token_ids[:1],) * context), ContextOverflow),
            (replace(good, sampling=too_long), ContextOverflow),
        ]
        for request, error in bad:
            with pytest.raises(error):
                async with engine.submit(request):
                    pytest.fail("entered")
        async with engine.submit(good):
            with pytest.raises(InvalidRequest):
                async with engine.submit(good):
                    pytest.fail("entered twice")
        await ask(engine, good)

    subject.run(scenario)


def test_a_full_queue_refuses_and_the_waiting_are_served(subject: Subject) -> None:
    async def scenario(engine: Engine, model: str) -> None:
        accepted = engine.capabilities().slots + QUEUE_MAX
        requests = [
            await request_of(engine, model, request_id=str(each), start=each)
            for each in range(accepted)
        ]
        answers: dict[str, tuple[int, ...]] = {}

        async def caller(request: EngineRequest) -> None:
            answers[request.request_id] = ids_of(await ask(engine, request))

        async with trio.open_nursery() as nursery:
            for request in requests:
                nursery.start_soon(caller, request)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(EngineOverloaded):
                async with engine.submit(await request_of(engine, model, request_id="more")):
                    pytest.fail("entered")
        for request in requests:
            assert answers[request.request_id] == ids_of(await ask(engine, request))

    subject.run(scenario)


def test_leaving_early_frees_the_slot_and_the_memory(subject: Subject) -> None:
    async def scenario(engine: Engine, model: str) -> None:
        request = await request_of(engine, model, max_tokens=500)
        for events_read in (0, 1, 3):
            async with engine.submit(request) as stream:
                for _ in range(events_read):
                    await anext(stream)
            load = engine.load()
            assert (load.running, load.queued, load.queued_tokens) == (0, 0, 0)
            # The same id again at once, as by a resume: nothing of the earlier answer comes.
        held: set[bytes] = set()
        replay(engine.cache_events(), held)
        assert engine.load().used_blocks == len(held)
        await ask(engine, replace(request, sampling=replace(request.sampling, max_tokens=2)))

    subject.run(scenario)


def test_a_request_cancelled_from_elsewhere_fails(subject: Subject) -> None:
    async def scenario(engine: Engine, model: str) -> None:
        engine.cancel("unknown")
        request = await request_of(engine, model, max_tokens=500)
        async with engine.submit(request) as stream:
            await anext(stream)
            engine.cancel(request.request_id)
            engine.cancel(request.request_id)
            with pytest.raises(EngineFailed):
                [event async for event in stream]
        assert engine.load().running == 0

    subject.run(scenario)


def replay(events: object, held: set[bytes]) -> None:
    """Folds events of one tenant in; asserts that parents come first and leaves go first."""
    parents: dict[bytes, bytes | None] = {}
    for event in events:  # type: ignore[attr-defined] - a sequence of events
        each: CacheEvent = event
        match each:
            case BlocksStored():
                parent: bytes | None = each.parent
                for block in each.blocks:
                    assert parent is None or parent in held
                    assert block not in held
                    held.add(block)
                    parents[block] = parent
                    parent = block
            case BlocksEvicted():
                for block in each.blocks:
                    held.remove(block)
                    assert block not in {parents.get(child) for child in held}
            case Cleared():
                held.clear()


def test_cache_events_name_the_blocks_of_prompt_and_answer(subject: Subject) -> None:
    async def scenario(engine: Engine, model: str) -> None:
        request = await request_of(engine, model, tokens=90, max_tokens=24)
        answer = ids_of(await ask(engine, request))
        chain = BlockChain(request.chain_key, engine.capabilities().models[0].prefix)
        held: set[bytes] = set()
        replay(engine.cache_events(), held)
        # The last token of an answer is never computed.
        assert held == set(chain.hashes((*request.token_ids, *answer[:-1])))
        assert list(engine.cache_events()) == []
        await ask(engine, request)
        assert list(engine.cache_events()) == []

    subject.run(scenario)


def test_a_stopped_engine_refuses_and_holds_nothing(subject: Subject) -> None:
    async def scenario(engine: Engine, model: str) -> None:
        worker = EngineWorker(subject.core(), in_thread=subject.in_thread)
        request = await request_of(engine, model)
        async with running(worker):
            await ask(worker, request)
        with pytest.raises(EngineFailed):
            async with worker.submit(request):
                pytest.fail("entered")
        assert list(worker.cache_events())[-1] == Cleared()

    subject.run(scenario)


def test_what_a_namespace_has_cached_is_dropped_and_others_keep_theirs(subject: Subject) -> None:
    async def scenario(engine: Engine, model: str) -> None:
        ours = await request_of(engine, model, tokens=90, max_tokens=1)
        theirs = await request_of(engine, model, tokens=90, max_tokens=1, namespace="b")
        for request in (ours, theirs):
            await ask(engine, request)
        held: set[bytes] = set()
        engine.drop(ours.namespace, ours.chain_key)
        for event in engine.cache_events():
            if event.namespace == ours.namespace:
                replay([event], held)
        assert held == set()
        # Its key is void: what comes with it is answered and leaves nothing.
        for request, cached in ((ours, 0), (ours, 0), (theirs, 80)):
            first = (await ask(engine, request))[0]
            assert first.cached_tokens == cached
        fresh = replace(ours, chain_key=bytes([7]) * 32)
        await ask(engine, fresh)
        assert (await ask(engine, fresh))[0].cached_tokens == 80

    subject.run(scenario)
