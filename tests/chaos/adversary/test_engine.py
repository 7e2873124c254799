"""An engine whose faults are switched on and off."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from chaos.claims import StandStill
from chaos.engine import FaultyEngine, prefix_cache_of
from chaos.gap import EventGap
from chaos.modes.toy import OtherModel, SimToy, most_used, sim_toy_of
from chaos.remote_toy import RemoteToyConfig, core_of
from chaos.simulation import run_simulation
from inference import toy_language
from inference.errors import EngineFailed, UnknownModel
from inference.events import BlockHash, BlocksEvicted, BlocksStored, Cleared
from inference.request import (
    EngineRequest,
    FinishReason,
    Namespace,
    Sampling,
    TextPrompt,
    TokenEvent,
)
from inference.toy import ToyConfig, ToyEngine
from inference.worker import AnswerStream
from overlay.served import advertised

TOY = ToyConfig(prefill_tokens_per_s=1000.0, decode_s_per_token=0.1, end_every=0)
A = Namespace("a")


def request(name: str = "1", tokens: int = 100) -> EngineRequest:
    return EngineRequest(
        request_id=name,
        namespace=A,
        chain_key=bytes(32),
        model="toy",
        token_ids=tuple(range(300, 300 + tokens)),
        sampling=Sampling(seed=1, temperature=0.0, max_tokens=4),
    )


@asynccontextmanager
async def running(engine: FaultyEngine | None = None) -> AsyncIterator[FaultyEngine]:
    engine = engine or FaultyEngine(ToyEngine(TOY))
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        yield engine
        nursery.cancel_scope.cancel()


async def answer(engine: FaultyEngine, asked: EngineRequest) -> list[TokenEvent]:
    async with engine.submit(asked) as stream:
        return [event async for event in stream]


async def rest_of(stream: AnswerStream) -> list[TokenEvent]:
    return [event async for event in stream]


def cached(events: list[TokenEvent]) -> int | None:
    return events[0].cached_tokens


def test_slow_steps_take_as_many_times_as_long_and_the_load_says_so() -> None:
    async def main() -> None:
        async with running() as engine:
            took: list[float] = []
            noticed: list[int] = []
            for factor in (1.0, 3.0, 1.0):
                if factor > 1:
                    engine.slow_down("f", factor, lambda: noticed.append(1))
                    assert engine.load().prefill_tokens_per_s == pytest.approx(1000 / 3)
                else:
                    engine.speed_up("f")
                began_s = trio.current_time()
                await answer(engine, request(tokens=100 + len(took)))
                engine.evict_all()
                took.append(trio.current_time() - began_s)
            assert took[1] == pytest.approx(3 * took[0], rel=0.05)
            assert took[2] == pytest.approx(took[0], rel=0.05)
            assert noticed

    run_simulation(1, main)


def test_a_stall_ends_when_every_key_has_been_taken() -> None:
    async def main() -> None:
        async with running() as engine:
            noticed: list[int] = []
            engine.stall("f", lambda: noticed.append(1))
            engine.stall("g", lambda: noticed.append(2))
            async with trio.open_nursery() as nursery:
                events: list[TokenEvent] = []

                async def ask() -> None:
                    events.extend(await answer(engine, request()))

                nursery.start_soon(ask)
                await trio.sleep(20)
                engine.go_on("f")
                await trio.sleep(20)
                assert events == []
                assert noticed == [1, 2]
                engine.go_on("g")
            assert events[-1].finish_reason is not None

    run_simulation(1, main)


def test_a_crash_fails_what_runs_and_empties_the_cache_and_the_engine_goes_on() -> None:
    async def main() -> None:
        async with running() as engine:
            await answer(engine, request())
            engine.cache_events()
            async with engine.submit(request("2")) as stream:
                await anext(stream)
                assert engine.crash("broken on purpose") == 1
                with pytest.raises(EngineFailed, match="WorkerCrashed"):
                    await rest_of(stream)
            assert Cleared() in engine.cache_events()
            assert cached(await answer(engine, request("3"))) == 0

    run_simulation(1, main)


def test_a_crash_while_nothing_runs_empties_the_cache_at_once() -> None:
    async def main() -> None:
        async with running() as engine:
            await answer(engine, request())
            assert engine.crash("idle") == 0
            assert Cleared() in engine.cache_events()
            assert cached(await answer(engine, request("2"))) == 0

    run_simulation(1, main)


def test_evicting_all_leaves_what_is_in_use() -> None:
    async def main() -> None:
        async with running() as engine:
            await answer(engine, request())
            async with engine.submit(request("2", tokens=160)) as stream:
                await anext(stream)
                # Its 100 first tokens were cached, and are locked now.
                used = engine.load().used_blocks
                engine.evict_all()
                assert 0 < engine.load().used_blocks <= used
                events = [event async for event in stream]
            assert events[-1].finish_reason is not None
            gone = engine.evict_all()
            assert gone > 0
            assert engine.load().used_blocks == 0
            assert any(isinstance(event, BlocksEvicted) for event in engine.cache_events())

    run_simulation(1, main)


def test_a_lie_says_that_all_was_cached_and_computes_all() -> None:
    async def main() -> None:
        async with running() as engine:
            await answer(engine, request())
            engine.cache_events()
            lies: list[int] = []
            engine.lie("f", lambda: lies.append(1))
            began_s = trio.current_time()
            events = await answer(engine, request("2"))
            assert cached(events) == 100
            assert trio.current_time() - began_s == pytest.approx(0.1 + 3 * 0.1, abs=0.01)
            assert lies == [1]
            assert engine.cache_events() == []
            engine.be_honest("f")
            assert cached(await answer(engine, request("3"))) == 96

    run_simulation(1, main)


def test_the_truth_is_told_anew_after_a_false_claim() -> None:
    async def main() -> None:
        async with running() as engine:
            held: list[int] = []
            engine.claims["f"] = StandStill(lambda: held.append(1))
            await answer(engine, request())
            assert engine.cache_events() == []
            assert held == [1]
            del engine.claims["f"]
            engine.tell_anew()
            told = list(engine.cache_events())
            assert told[0] == Cleared()
            blocks = [b for event in told if isinstance(event, BlocksStored) for b in event.blocks]
            cache = prefix_cache_of(engine.core)
            assert cache is not None
            assert len(blocks) == cache.total_blocks - cache.free_blocks
            assert engine.cache_events() == []

    run_simulation(1, main)


def remote(**how: bool) -> FaultyEngine:
    config = RemoteToyConfig(
        prefill_tokens_per_s=1000.0, decode_s_per_token=0.1, end_every=0, **how
    )
    return FaultyEngine(core_of(config, SimToy))


def test_every_so_manieth_step_finds_no_memory_and_the_engine_goes_on() -> None:
    async def main() -> None:
        async with running() as engine:
            noticed: list[int] = []
            whole = await answer(engine, request())
            engine.run_short("f", 2, lambda: noticed.append(1))
            async with engine.submit(request("2")) as stream:
                with pytest.raises(EngineFailed, match="MemoryError"):
                    await rest_of(stream)
            assert Cleared() in engine.cache_events()
            assert noticed == [1]
            for name in "345":  # never given up, as steps between them are good
                async with engine.submit(request(name)) as stream:
                    with pytest.raises(EngineFailed, match="MemoryError"):
                        await rest_of(stream)
            engine.have_memory("f")
            again = await answer(engine, request("6"))
            assert [e.token_ids for e in again] == [e.token_ids for e in whole]

    run_simulation(1, main)


def test_a_server_that_is_away_serves_nothing_and_comes_back_empty() -> None:
    async def main() -> None:
        async with running(remote()) as engine:
            before = engine.capabilities()
            assert engine.capabilities() is before
            await answer(engine, request())
            engine.cache_events()
            async with engine.submit(replace(request("2"), body=b'{"stream": true}')) as stream:
                await anext(stream)
                assert engine.lose_server("f") == 1
                with pytest.raises(EngineFailed, match="away"):
                    await rest_of(stream)
            assert Cleared() in engine.cache_events()
            away = engine.capabilities()
            assert (away.models, away.slots, away.tokenizes) == ((), 0, False)
            assert engine.capabilities() is away
            assert engine.load().total_blocks == 0
            with pytest.raises(UnknownModel):
                await engine.tokenize("toy", TextPrompt(text="so"))
            with pytest.raises(EngineFailed, match="away"):
                await answer(engine, request("3"))
            engine.find_server("f")
            back = engine.capabilities()
            assert back == before
            assert back is not before
            assert cached(await answer(engine, request("4"))) == 0

    run_simulation(1, main)


def test_events_that_are_lost_make_the_claims_inexact_until_the_cache_is_cleared() -> None:
    async def main() -> None:
        async with running(remote()) as engine:
            await answer(engine, request())
            lost: list[int] = []
            cache = prefix_cache_of(engine.core)
            assert cache is not None
            gap = EventGap(5.0, cache.contents, trio.current_time, lambda: lost.append(1))
            engine.lose_events("f", gap)
            assert engine.cache_events()
            engine.evict_all()
            assert engine.cache_events() == []
            await trio.sleep(5)
            assert engine.capabilities().exact_claims
            await answer(engine, request("2", tokens=40))
            engine.cache_events()
            told = engine.capabilities()
            assert not told.exact_claims
            assert told.models[0].estimated
            assert lost
            # It finds the two blocks of the last request, where it was thought to find six.
            assert cached(await answer(engine, request("3"))) == 32
            gone = [e for e in engine.cache_events() if isinstance(e, BlocksEvicted)]
            assert len(gone[0].blocks) == 4
            engine.hear_all("f")
            assert engine.cache_events()[0] == Cleared()
            assert engine.capabilities().exact_claims

    run_simulation(1, main)


@pytest.mark.parametrize("stream", [True, False])
def test_a_remote_liar_tells_it_again_at_the_end(*, stream: bool) -> None:
    async def main() -> None:
        async with running(remote(tells_ids=False)) as engine:
            body = b'{"stream": true}' if stream else b"{}"
            engine.lie("f", lambda: None)
            events = await answer(engine, replace(request(), body=body))
            assert cached(events) == 100
            last = events[-1]
            assert last.usage is not None
            assert last.usage.cached_tokens == 100
            assert all(event.chunk for event in events)

    run_simulation(1, main)


def test_answers_end_early() -> None:
    async def main() -> None:
        engine = FaultyEngine(SimToy(TOY))
        async with running(engine):
            whole = await answer(engine, request())
            noticed: list[int] = []
            toy = sim_toy_of(engine.core)
            assert toy is not None
            toy.end_early("f", 2, lambda: noticed.append(1))
            early = await answer(engine, request("2"))
            assert [e.token_ids for e in early[:2]] == [e.token_ids for e in whole[:2]]
            assert early[2].token_ids == (toy_language.END,)
            assert [e.finish_reason for e in early] == [None, None, FinishReason.STOP]
            assert noticed == [1]
            toy.mend("f")
            assert len(await answer(engine, request("3"))) == len(whole)

    run_simulation(1, main)


def test_what_is_answered_from_a_wrong_block_is_wrong_until_it_is_evicted() -> None:
    async def main() -> None:
        engine = FaultyEngine(SimToy(TOY))
        async with running(engine):
            toy = sim_toy_of(engine.core)
            assert toy is not None
            noticed: list[int] = []
            assert not toy.corrupt("f", 0, lambda: noticed.append(1))
            whole = [e.token_ids for e in await answer(engine, request())]
            assert not toy.corrupt("f", 99, lambda: noticed.append(1))
            assert toy.corrupt("f", 5, lambda: noticed.append(1))
            # 80 tokens have five blocks: the sixth is the wrong one.
            await answer(engine, request("2", tokens=80))
            assert noticed == []
            wrong = [e.token_ids for e in await answer(engine, request("3"))]
            assert wrong != whole
            assert noticed == [1]
            engine.evict_all()
            engine.cache_events()
            assert [e.token_ids for e in await answer(engine, request("4"))] == whole
            assert [e.token_ids for e in await answer(engine, request("5"))] == whole

    run_simulation(1, main)


def test_the_block_that_most_others_stand_on_is_the_one() -> None:
    def stored(text: str, after: str = "") -> BlocksStored:
        names = tuple(BlockHash(char.encode()) for char in text)
        parent = BlockHash(after[-1:].encode()) if after else None
        return BlocksStored(namespace=A, parent=parent, depth=len(after), blocks=names)

    contents = [stored("ab"), stored("xyz"), stored("cd", "ab"), stored("e", "ab")]
    assert most_used(contents, 0) == b"a"
    assert most_used(contents, 2) == b"c"
    assert most_used(contents, 4) is None


@pytest.mark.parametrize("tokenizer", [True, False])
def test_another_model_says_so_and_answers_otherwise(*, tokenizer: bool) -> None:
    async def main() -> None:
        said = []
        for other in (None, OtherModel(tokenizer=tokenizer)):
            engine = FaultyEngine(SimToy(TOY, other))
            async with running(engine):
                said.append([e.token_ids for e in await answer(engine, request())])
                (model,) = engine.capabilities().models
                mine = ToyEngine(TOY).capabilities().models[0]
                same = advertised(model).prefix == advertised(mine).prefix
                assert same is (other is None or not tokenizer)
                assert (advertised(model).variant == advertised(mine).variant) is (other is None)
        assert said[0] != said[1]

    run_simulation(1, main)
