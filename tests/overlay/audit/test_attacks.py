"""The attacks on toy engines in virtual time: they find what is there, and nothing elsewhere."""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable

import trio

from inference.request import EngineRequest, Namespace, Sampling
from inference.toy import ToyConfig, ToyEngine
from inference.worker import EngineWorker
from overlay.audit.attacks import (
    ATTACKER,
    SENT_WORDS,
    VICTIM,
    WORDS,
    Attacker,
    Measured,
    Probe,
)
from overlay.audit.statistics import Separation, separation
from tests.overlay.peers_world import simulate

SAMPLES = 40
FIRST_TOKEN = 300

SCARCE_BLOCKS = 17
"""As ``EVICTION_CACHE`` gives the real model."""

Made = list[tuple[str, str]]


class Toy:
    """Asks a toy engine; with ``everybody`` all tenants share one cache, as none should."""

    def __init__(self, *, total_blocks: int = 8192, everybody: bool = False) -> None:
        config = ToyConfig(slots=2, total_blocks=total_blocks, prefill_tokens_per_s=500.0)
        self.worker = EngineWorker(ToyEngine(config), in_thread=False)
        self.everybody = everybody
        self.asked: Made = []
        self._numbers = itertools.count()
        self._noise = random.Random(4)

    async def ask(self, tenant: str, prompt: str) -> Probe:
        self.asked.append((tenant, prompt))
        name = "everybody" if self.everybody else tenant
        tokens = tuple(FIRST_TOKEN + WORDS.index(word) for word in prompt.split())
        request = EngineRequest(
            request_id=f"r{next(self._numbers)}",
            namespace=Namespace(name),
            chain_key=(name.encode() * 32)[:32],
            model="toy",
            token_ids=tokens,
            sampling=Sampling(seed=1, temperature=0, max_tokens=1),
        )
        began_s = trio.current_time()
        async with self.worker.submit(request) as stream:
            async for event in stream:
                noise_s = self._noise.uniform(0, 0.002)
                return Probe(
                    ttft_s=trio.current_time() - began_s + noise_s,
                    cached_tokens=event.cached_tokens or 0,
                )
        raise AssertionError("no token came")


def attacked(toy: Toy, attack: Callable[[Attacker], Awaitable[None]], *, seed: int = 1) -> int:
    """Runs an attack on the toy; how many samples it told of."""
    told: list[None] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(toy.worker.run)
            await attack(Attacker(toy.ask, seed=seed, on_sample=lambda: told.append(None)))
            nursery.cancel_scope.cancel()

    simulate(1, main)
    return len(told)


def told_apart(measured: Measured) -> Separation:
    return separation(measured.below, measured.above, seed=1)


def test_a_guess_is_confirmed_within_the_tenant_and_not_from_another() -> None:
    toy = Toy()
    found: list[Measured] = []

    async def attack(attacker: Attacker) -> None:
        found.extend(await attacker.guesses(SAMPLES))

    assert attacked(toy, attack) == 2 * SAMPLES
    within, across = map(told_apart, found)
    assert within.low > 0.9
    assert across.within(0.25, 0.75)
    assert within.samples == across.samples == SAMPLES
    assert found[0].cached_below > 0
    assert found[1].cached_below == found[1].cached_above == 0


def test_a_cache_that_tenants_share_is_found_out() -> None:
    """A planted leak: one namespace for everybody."""
    found: list[Measured] = []

    async def attack(attacker: Attacker) -> None:
        found.extend(await attacker.guesses(SAMPLES))

    attacked(Toy(everybody=True), attack)
    assert told_apart(found[1]).low > 0.9


def test_what_the_victim_evicts_is_found_out_where_memory_is_short_only() -> None:
    found: list[Measured] = []

    async def attack(attacker: Attacker) -> None:
        found.append(await attacker.eviction(SAMPLES))

    attacked(Toy(total_blocks=SCARCE_BLOCKS), attack)
    attacked(Toy(), attack)
    short, ample = found
    assert told_apart(short).low > 0.9
    assert short.cached_above < short.cached_below
    assert told_apart(ample).within(0.25, 0.75)
    assert ample.cached_above == ample.cached_below


def test_load_that_hits_lighten_is_found_out() -> None:
    found: list[Measured] = []

    async def attack(attacker: Attacker) -> None:
        found.append(await attacker.load(SAMPLES))

    attacked(Toy(), attack)
    assert told_apart(found[0]).low > 0.9


def test_both_cases_send_as_much_in_an_order_that_the_seed_alone_decides() -> None:
    async def attack(attacker: Attacker) -> None:
        await attacker.guesses(SAMPLES)

    asked = []
    for seed in (1, 1, 2):
        toy = Toy()
        attacked(toy, attack, seed=seed)
        asked.append(toy.asked)
    assert asked[0] == asked[1] != asked[2]
    rounds = [asked[0][at : at + 3] for at in range(0, len(asked[0]), 3)]
    sent = [victims[1] == guess[1] for victims, guess, _ in rounds]
    assert sum(sent) == SAMPLES
    assert 5 < sum(sent[::2]) < SAMPLES - 5, "pairs are in random order"
    assert all(
        (victims[0], guess[0], own[0]) == (VICTIM, ATTACKER, VICTIM)
        for victims, guess, own in rounds
    )
    assert {len(prompt.split()) for _, prompt in asked[0]} == {SENT_WORDS}
