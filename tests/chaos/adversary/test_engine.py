"""An engine whose faults are switched on and off."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from chaos.claims import StandStill
from chaos.engine import FaultyEngine, prefix_cache_of
from chaos.simulation import run_simulation
from inference.errors import EngineFailed
from inference.events import BlocksEvicted, BlocksStored, Cleared
from inference.request import EngineRequest, Namespace, Sampling, TokenEvent
from inference.toy import ToyConfig, ToyEngine
from inference.worker import AnswerStream

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
async def running() -> AsyncIterator[FaultyEngine]:
    engine = FaultyEngine(ToyEngine(TOY))
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
                with pytest.raises(EngineFailed, match="broken on purpose"):
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
