"""The truth about a cache: the engine's own events, whatever becomes of them later."""

from __future__ import annotations

from chaos.engine import FaultyEngine
from chaos.observe.truth import CacheTruth, TruthCore
from inference.blocks import BlockChain
from inference.events import BlockHash, BlocksEvicted, BlocksStored, Cleared
from inference.request import EngineRequest, Namespace, PrefixIdentity, Sampling
from inference.toy import ToyConfig, ToyEngine

A, B = Namespace("a"), Namespace("b")
BLOCKS = tuple(BlockHash(bytes([number]) * 16) for number in range(6))
KEY = bytes(32)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def stored(blocks: tuple[BlockHash, ...], parent: BlockHash | None = None) -> BlocksStored:
    return BlocksStored(namespace=A, parent=parent, depth=0, blocks=blocks)


def test_what_was_stored_is_held_for_its_namespace_only() -> None:
    truth = CacheTruth(Clock())
    truth.fold([stored(BLOCKS[:3])])
    assert truth.match(A, BLOCKS[:3]) == 3
    assert truth.match(A, BLOCKS[:5]) == 3
    assert truth.match(B, BLOCKS[:3]) == 0


def test_ends_are_the_blocks_that_nothing_held_follows() -> None:
    truth = CacheTruth(Clock())
    truth.fold([stored(BLOCKS[:3]), stored(BLOCKS[3:5], parent=BLOCKS[0])])
    assert truth.ends(A) == {BLOCKS[2], BLOCKS[4]}
    truth.fold([BlocksEvicted(namespace=A, blocks=(BLOCKS[2],))])
    assert truth.ends(A) == {BLOCKS[1], BLOCKS[4]}


def test_it_knows_how_long_a_block_has_been_gone() -> None:
    clock = Clock()
    truth = CacheTruth(clock)
    truth.fold([stored(BLOCKS[:2])])
    clock.now_s = 5.0
    truth.fold([Cleared()])
    clock.now_s = 7.5
    assert truth.gone_for_s(A, BLOCKS[0]) == 2.5
    assert truth.gone_for_s(A, BLOCKS[5]) is None
    truth.fold([stored(BLOCKS[:1])])
    assert truth.gone_for_s(A, BLOCKS[0]) == 0.0


def request(tokens: int, name: str = "1") -> EngineRequest:
    return EngineRequest(
        request_id=name,
        namespace=A,
        chain_key=KEY,
        model="toy",
        token_ids=tuple(range(300, 300 + tokens)),
        sampling=Sampling(seed=1, max_tokens=4),
    )


def run(core: TruthCore) -> None:
    while core.has_work():
        core.step()


def hashes(tokens: int) -> list[BlockHash]:
    model = ToyEngine(ToyConfig()).capabilities().models[0]
    prefix: PrefixIdentity = model.prefix
    return BlockChain(KEY, prefix).hashes(range(300, 300 + tokens))


def test_the_tap_keeps_events_for_the_worker_and_knows_of_them_at_once() -> None:
    truth, evicted = CacheTruth(Clock()), []
    core = TruthCore(ToyEngine(ToyConfig()), truth, lambda: evicted.append(1))
    core.add(request(64))
    run(core)
    assert truth.match(A, hashes(64)) == 4
    told = core.cache_events()
    assert [event for event in told if isinstance(event, BlocksStored)]
    assert core.cache_events() == ()
    assert evicted == []


def test_an_engine_that_is_gone_tells_nothing_more() -> None:
    truth = CacheTruth(Clock())
    before = TruthCore(ToyEngine(ToyConfig()), truth, lambda: None)
    before.add(request(64))
    run(before)
    truth.lose_all()
    after = TruthCore(ToyEngine(ToyConfig()), truth, lambda: None)
    after.add(request(32))
    run(after)
    before.close()
    assert truth.match(A, hashes(64)) == 2


def test_evictions_are_told() -> None:
    truth, evicted = CacheTruth(Clock()), []
    core = TruthCore(ToyEngine(ToyConfig()), truth, lambda: evicted.append(1))
    engine = FaultyEngine(core)
    core.add(request(64))
    run(core)
    assert engine.evict_all() > 0
    engine.cache_events()
    assert evicted == [1]
    assert truth.held(A) == set()
