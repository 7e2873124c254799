"""The mirror against a model that knows what each rank holds, and rule by rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from inference.blocks import BlockChain
from inference.events import BlockHash
from inference.remote.cache_picture import Outcome
from inference.remote.events.frames import AllCleared, pieces
from inference.remote.events.mirror import Mirror
from inference.request import Namespace
from tests.inference.remote.folding import (
    IDENTITY,
    KEYS,
    NS_A,
    NS_B,
    Fold,
    names,
    removed,
    stored,
    tokens_of,
)

Path = tuple[int, ...]
Key = tuple[str, Path]

SIZE = 32
RANKS = 2
SALTS = {"sa": NS_A, "sa2": NS_A, "sb": NS_B}
TIERS = ("GPU", "CPU")

paths = st.lists(st.integers(0, 1), min_size=1, max_size=4).map(tuple)
salts = st.sampled_from(sorted(SALTS))
ranks = st.integers(0, RANKS - 1)
tiers = st.sampled_from(TIERS)


def engine_hash(rank: int, salt: str, path: Path) -> bytes:
    return repr((rank, salt, path)).encode()


@dataclass
class Entry:
    tiers: Counter[str] = field(default_factory=Counter)
    foreign: bool = False
    named: bool = False


class MirrorModel(RuleBasedStateMachine):
    """What can be told is what is held in full from the first block on, by any rank."""

    def __init__(self) -> None:
        super().__init__()
        self.mirror = Mirror(IDENTITY, ranks=RANKS)
        self.mirror._forest.journal._blocks_min = 12
        self.held: list[dict[Key, Entry]] = [{} for _ in range(RANKS)]
        self.learned: set[str] = set()
        self.fold = Fold()

    @rule(rank=ranks, salt=salts, path=paths, start=st.integers(0, 3), tier=tiers)
    def store(self, rank: int, salt: str, path: Path, start: int, tier: str) -> None:
        self.put(rank, salt, path, min(start, len(path) - 1), tier, None)

    @rule(rank=ranks, salt=salts, path=paths, at=st.integers(0, 3))
    def store_foreign(self, rank: int, salt: str, path: Path, at: int) -> None:
        self.put(rank, salt, path, 0, "GPU", min(at, len(path) - 1))

    def put(
        self, rank: int, salt: str, path: Path, start: int, tier: str, foreign: int | None
    ) -> None:
        """Foreign blocks have other hashes, as whatever makes them foreign is hashed too."""
        cut = len(path) if foreign is None else foreign
        keys: list[Key] = [
            (salt, tuple(t + 100 * (i >= cut) for i, t in enumerate(path[:length])))
            for length in range(1, len(path) + 1)
        ]
        self.mirror.apply(
            rank,
            stored(
                [engine_hash(rank, *key) for key in keys[start:]],
                engine_hash(rank, *keys[start - 1]) if start else None,
                tokens_of(path[start:], SIZE),
                size=SIZE,
                salt=None if start else salt,
                foreign_from=cut - start,
                medium=tier,
            ),
        )
        for index, key in enumerate(keys[start:], start):
            entry = self.held[rank].setdefault(key, Entry(foreign=index >= cut))
            entry.tiers[tier] += 1
        self.settle()

    @rule(rank=ranks, tier=tiers, data=st.data())
    def remove(self, rank: int, tier: str, data: st.DataObject) -> None:
        known = sorted(key for key, entry in self.held[rank].items() if entry.tiers[tier])
        keys = data.draw(st.lists(st.sampled_from(known), unique=True, max_size=4)) if known else []
        self.mirror.apply(
            rank, removed(*[engine_hash(rank, *key) for key in keys], b"never stored", medium=tier)
        )
        for key in keys:
            entry = self.held[rank][key]
            entry.tiers[tier] -= 1
            if not entry.tiers.total():
                del self.held[rank][key]

    @rule(rank=ranks)
    def clear_rank(self, rank: int) -> None:
        self.mirror.apply(rank, AllCleared())
        self.held[rank].clear()

    @rule()
    def restart(self) -> None:
        self.mirror.cleared()
        for held in self.held:
            held.clear()

    @rule(salt=salts)
    def learn(self, salt: str) -> None:
        self.mirror.learn(SALTS[salt], KEYS[SALTS[salt]], salt)
        self.learned.add(salt)
        self.settle()

    def settle(self) -> None:
        """A chain can be named once its first block's salt is known, and stays named."""
        for held in self.held:
            for key in sorted(held, key=lambda key: len(key[1])):
                salt, path = key
                above = held.get((salt, path[:-1]))
                known = salt in self.learned if len(path) == 1 else bool(above and above.named)
                entry = held[key]
                entry.named = entry.named or (known and not entry.foreign)

    def reachable(self) -> Iterator[tuple[Namespace, Path]]:
        """The ranks of a server and the salts of a namespace are told as one."""
        held = {
            (SALTS[salt], path)
            for rank in self.held
            for (salt, path), entry in rank.items()
            if entry.named
        }
        for namespace, path in held:
            if all((namespace, path[:length]) in held for length in range(1, len(path))):
                yield namespace, path

    @rule()
    def told_is_what_is_held(self) -> None:
        self.fold.fold(self.mirror.drain())
        expected: dict[Namespace, set[BlockHash]] = {NS_A: set(), NS_B: set()}
        for namespace, path in self.reachable():
            prompt = names(namespace, tokens_of(path, SIZE))
            expected[namespace].update(prompt)
            assert self.mirror.match(namespace, prompt) == len(prompt)
        for namespace, blocks in expected.items():
            assert self.fold.blocks(namespace) == blocks
        assert len(self.mirror) == sum(len(blocks) for blocks in expected.values())

    def teardown(self) -> None:
        self.told_is_what_is_held()
        for rank in range(RANKS):
            for tier in TIERS:
                for key, entry in list(self.held[rank].items()):
                    gone = removed(engine_hash(rank, *key), medium=tier)
                    for _ in range(entry.tiers[tier]):
                        self.mirror.apply(rank, gone)
        self.held = [{} for _ in range(RANKS)]
        self.told_is_what_is_held()
        assert not len(self.mirror._forest)
        assert not self.mirror._strangers
        assert not self.mirror._salted
        assert not any(rank._waiting for rank in self.mirror._ranks)


TestMirror = MirrorModel.TestCase


def test_ranks_and_salts_of_a_namespace_are_told_as_one() -> None:
    """More may be told than any one of them has: a hop too many, and no wrong answer."""
    model = MirrorModel()
    model.learn("sa")
    model.put(1, "sa", (1, 0), 0, "GPU", None)
    model.learn("sa2")
    model.mirror.apply(1, removed(engine_hash(1, "sa", (1,))))
    model.held[1].pop(("sa", (1,)))
    model.put(0, "sa2", (1,), 0, "GPU", None)
    model.told_is_what_is_held()


TestMirror.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


@pytest.fixture(name="mirror")
def fixture_mirror() -> Mirror:
    mirror = Mirror(IDENTITY)
    mirror.learn(NS_A, KEYS[NS_A], "sa")
    return mirror


def held(mirror: Mirror, path: Path, size: int = 16) -> int:
    return mirror.match(NS_A, names(NS_A, tokens_of(path, size)))


def told(mirror: Mirror, name: str) -> str | None:
    return dict(mirror.posture()).get(name)


def test_an_engine_block_is_several_of_ours(mirror: Mirror) -> None:
    mirror.apply(0, stored([1, 2], None, tokens_of((7, 8), 64), size=64, salt="sa"))
    assert held(mirror, (7, 8), 64) == 8
    mirror.apply(0, removed(2))
    assert held(mirror, (7, 8), 64) == 4


def test_a_block_computed_twice_side_by_side_is_held_until_both_are_gone(mirror: Mirror) -> None:
    for _ in range(2):
        mirror.apply(0, stored([1], None, tokens_of((7,)), salt="sa"))
    mirror.apply(0, removed(1))
    assert held(mirror, (7,)) == 1
    mirror.apply(0, removed(1))
    assert held(mirror, (7,)) == 0


def test_a_media_tier_told_without_tokens_holds_a_known_block(mirror: Mirror) -> None:
    mirror.apply(0, stored([1], None, tokens_of((7,)), salt="sa"))
    mirror.apply(0, stored([1, 99], None, [], size=0, medium="CPU"))
    mirror.apply(0, removed(1))
    assert held(mirror, (7,)) == 1
    assert told(mirror, "blocks told without their tokens") == "1"
    mirror.apply(0, removed(1, medium="CPU"))
    assert held(mirror, (7,)) == 0


@pytest.mark.parametrize(
    ("group", "kind", "blocks"),
    [
        (0, None, 1),
        (None, None, 1),
        (1, None, 0),
        (1, "full_attention", 1),
        (0, "sliding_window", 0),
        (3, "mamba", 0),
    ],
)
def test_only_full_attention_counts(
    mirror: Mirror, group: int | None, kind: str | None, blocks: int
) -> None:
    mirror.apply(0, stored([1], None, tokens_of((7,)), salt="sa", group=group, kind=kind))
    assert held(mirror, (7,)) == blocks
    mirror.apply(0, removed(1, group=5))
    assert held(mirror, (7,)) == blocks


@pytest.mark.parametrize("size", [1, 8, 24])
def test_a_block_size_that_does_not_fit_ours_is_said_and_claims_nothing(
    mirror: Mirror, size: int
) -> None:
    mirror.apply(0, stored([1, 2], None, tokens_of((7, 8), size), size=size, salt="sa"))
    assert len(mirror) == 0
    assert told(mirror, "events whose blocks are no multiple of 16 tokens") == "1"


def test_tokens_that_do_not_fill_the_blocks_claim_nothing(mirror: Mirror) -> None:
    mirror.apply(0, stored([1], None, tokens_of((7, 8)), salt="sa"))
    assert len(mirror) == 0


def test_a_salt_belongs_to_the_namespace_that_named_it_first(mirror: Mirror) -> None:
    mirror.learn(NS_B, KEYS[NS_B], "sa")
    mirror.apply(0, stored([1], None, tokens_of((7,)), salt="sa"))
    assert mirror.match(NS_B, names(NS_B, tokens_of((7,)))) == 0
    assert held(mirror, (7,)) == 1
    assert told(mirror, "salts that two namespaces name") == "1"


def test_blocks_of_unknown_salts_are_bounded_and_the_oldest_forgotten() -> None:
    mirror = Mirror(IDENTITY, strangers_max=3)
    for number in range(5):
        mirror.apply(0, stored([number], None, tokens_of((number,)), salt="sa"))
    mirror.learn(NS_A, KEYS[NS_A], "sa")
    assert [held(mirror, (number,)) for number in range(5)] == [0, 0, 1, 1, 1]
    assert told(mirror, "blocks of unknown salts that were forgotten") == "2"


def test_beyond_the_bound_nothing_is_taken_in_and_the_picture_is_not_exact() -> None:
    mirror = Mirror(IDENTITY, blocks_max=4)
    mirror.trust(0, exact=True)
    mirror.learn(NS_A, KEYS[NS_A], "sa")
    mirror.apply(0, stored(range(6), None, tokens_of(range(6)), salt="sa"))
    assert held(mirror, tuple(range(6))) == 4
    assert not mirror.exact
    assert "more than 4 blocks" in (told(mirror, "degraded") or "")
    mirror.apply(0, AllCleared())
    assert mirror.exact


def test_an_inexact_picture_of_one_rank_is_corrected_by_what_a_request_found(
    mirror: Mirror,
) -> None:
    mirror.apply(0, stored([1, 2, 3], None, tokens_of((7, 8, 9)), salt="sa"))
    prompt = names(NS_A, tokens_of((7, 8, 9, 9)))
    answered = Outcome(answered=True, prompt_tokens=65, cached_tokens=16)
    mirror.trust(0, exact=True)
    assert mirror.started("r", NS_A, prompt, 0.0) == 3
    mirror.finished("r", answered, 1.0)
    assert mirror.match(NS_A, prompt) == 3
    mirror.trust(0, exact=False)
    mirror.started("r", NS_A, prompt, 0.0)
    mirror.finished("r", answered, 1.0)
    assert mirror.match(NS_A, prompt) == 1
    assert told(mirror, "calibration") == "33 % of the expected blocks were there, 2 requests"
    mirror.apply(0, removed(2))
    mirror.apply(0, stored([2], 1, tokens_of((8,))))
    assert mirror.match(NS_A, prompt) == 3


def test_the_server_s_own_block_size_is_no_shortfall(mirror: Mirror) -> None:
    mirror.apply(0, stored([1, 2], None, tokens_of((7, 8), 32), size=32, salt="sa"))
    mirror.started("r", NS_A, names(NS_A, tokens_of((7, 8), 32)), 0.0)
    mirror.finished("r", Outcome(answered=True, prompt_tokens=64, cached_tokens=32), 1.0)
    assert held(mirror, (7, 8), 32) == 4
    assert (told(mirror, "calibration") or "").startswith("100 %")


def test_pieces_of_an_event_fold_to_the_same(mirror: Mirror) -> None:
    whole = stored(range(10), None, tokens_of(range(10)), salt="sa", foreign_from=8)
    parts = list(pieces(whole, 3))
    assert [len(part.block_hashes) for part in parts if not isinstance(part, AllCleared)] == [
        3,
        3,
        3,
        1,
    ]
    for part in parts:
        mirror.apply(0, part)
    assert held(mirror, tuple(range(10))) == 8
    for part in pieces(removed(*range(10)), 4):
        mirror.apply(0, part)
    assert len(mirror) == 0
    assert not mirror._strangers


def test_a_run_is_told_as_one_event_and_a_fork_as_another(mirror: Mirror) -> None:
    mirror.apply(0, stored([1, 2, 3], None, tokens_of((7, 8, 9)), salt="sa"))
    mirror.apply(0, stored([4], 3, tokens_of((6,))))
    mirror.apply(0, stored([5], 2, tokens_of((5,))))
    assert [len(getattr(event, "blocks", ())) for event in mirror.drain()] == [4, 1]


def test_a_namespace_that_is_dropped_begins_anew_under_another_key(mirror: Mirror) -> None:
    mirror.learn(NS_B, KEYS[NS_B], "sb")
    mirror.apply(0, stored([1, 2], None, tokens_of((7, 8)), salt="sa"))
    mirror.apply(0, stored([3], None, tokens_of((7,)), salt="sb"))
    fold = Fold()
    fold.fold(mirror.drain())
    mirror.drop(NS_A)
    fold.fold(mirror.drain())
    assert {namespace for namespace, _ in fold.held} == {NS_B}
    mirror.apply(0, removed(2, 1))
    mirror.learn(NS_A, bytes([9]) * 32, "other salt")
    mirror.apply(0, stored([4], None, tokens_of((7,)), salt="other salt"))
    mirror.apply(0, stored([5], None, tokens_of((6,)), salt="sa"))
    assert mirror.match(NS_A, names(NS_A, tokens_of((7,)))) == 0
    fresh = BlockChain(bytes([9]) * 32, IDENTITY).hashes(tokens_of((7,)))
    assert mirror.match(NS_A, fresh) == 1
