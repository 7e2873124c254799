from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.routing.place import COUNTERS, DEPTHS_BLOCKS, UNSURE_BELOW, WINDOW, Places

SHARED = [f"shared{number}".encode() for number in range(2000)]


def prompt(shared: int, name: object, own: int) -> list[bytes]:
    """Chain hashes of a prompt that begins with so many shared blocks."""
    return [*SHARED[:shared], *[f"{name}/{number}".encode() for number in range(own)]]


def test_a_prompt_without_a_whole_block_has_no_place() -> None:
    assert Places().key([]) == b""


def test_a_short_prompt_is_placed_by_its_last_block() -> None:
    hashes = prompt(0, "x", 3)
    assert Places().key(hashes) == hashes[-1]


def test_nothing_is_common_at_first() -> None:
    places = Places()
    for _ in range(UNSURE_BELOW - 1):
        places.observe(SHARED[:40])
    assert places.key(SHARED[:40]) == SHARED[DEPTHS_BLOCKS[0] - 1]


def test_what_all_prompts_begin_with_names_no_place() -> None:
    places = Places()
    prompts = [prompt(20, name, 40) for name in range(100)]
    for hashes in prompts:
        places.observe(hashes)
    keys = [places.key(hashes) for hashes in prompts]
    assert keys == [hashes[31] for hashes in prompts]
    assert len(set(keys)) == 100


def test_families_that_share_only_among_themselves_keep_one_place_each() -> None:
    places = Places()
    prompts = [[*prompt(0, f"family{n % 10}", 40), str(n).encode()] for n in range(200)]
    for hashes in prompts:
        places.observe(hashes)
    assert {places.key(hashes) for hashes in prompts} == {hashes[3] for hashes in prompts}


def test_a_prompt_that_is_common_to_its_end_is_placed_by_its_last_block() -> None:
    places = Places()
    for _ in range(50):
        places.observe(SHARED[:40])
    assert places.key(SHARED[:40]) == SHARED[39]


def test_what_is_common_stays_so_for_as_long_as_it_comes() -> None:
    places = Places()
    for number in range(5 * WINDOW):
        places.observe(prompt(4, number, 4))
        if number >= UNSURE_BELOW:
            assert places.key(SHARED[:5]) == SHARED[4]


def test_what_was_common_is_forgotten() -> None:
    places = Places()
    for _ in range(2 * WINDOW):
        places.observe(SHARED[:8])
    for number in range(3 * WINDOW):
        places.observe(prompt(0, number, 8))
    assert places.key(SHARED[:8]) == SHARED[3]


def test_routers_that_see_the_same_traffic_come_to_the_same_places() -> None:
    rng = random.Random(3)
    prompts = [prompt(20, rng.randrange(30), 40) for _ in range(400)]
    one, other = Places(), Places()
    for hashes in prompts:
        (one if rng.random() < 0.5 else other).observe(hashes)
    assert all(one.key(hashes) == other.key(hashes) for hashes in prompts)


@settings(derandomize=True)
@given(
    noise=st.lists(st.integers(0, 40), min_size=UNSURE_BELOW, max_size=60),
    seed=st.integers(0, 99),
)
def test_what_most_requests_begin_with_is_found_in_any_order(noise: list[int], seed: int) -> None:
    """The sketch is low by at most a ninth of the total: a share of 62 % is always seen."""
    stream = [prompt(0, name, 4) for name in noise] + [SHARED[:4]] * (2 * len(noise))
    random.Random(seed).shuffle(stream)
    places = Places()
    for hashes in stream:
        places.observe(hashes)
    assert places.key([*SHARED[:4], b"own"]) == b"own"


@settings(derandomize=True)
@given(names=st.lists(st.integers(0, 10**6), min_size=200, max_size=1200))
def test_memory_is_constant_whatever_clients_send(names: list[int]) -> None:
    places = Places()
    for name in names:
        places.observe(prompt(0, name, 4))
    assert len(places._depths[0]._counts) <= COUNTERS
