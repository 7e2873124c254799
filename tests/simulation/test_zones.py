"""Zone rules, kept by whole peers: who may be asked to serve, and how far away it may be."""

from __future__ import annotations

import pytest
import trio

from chaos.simulation import run_simulation
from chaos.world import until, world_of
from inference.toy import ToyConfig
from overlay.zone import ZoneRule

SLOW = ToyConfig(slots=2, prefill_tokens_per_s=200.0, decode_s_per_token=0.2, end_every=0)
FAST = ToyConfig(slots=2, prefill_tokens_per_s=5000.0, decode_s_per_token=0.01, end_every=0)
ATTIC = ("attic", "attic")


async def hops(rules: tuple[ZoneRule, ...]) -> int:
    """Of a request at a slow host whose fast neighbour would answer it sooner."""
    async with world_of(1, [SLOW, FAST], zone="attic", zone_rules=rules) as world:
        slow, _ = world.hosts
        await until(lambda: all(len(h.running.peers.up()) == 1 for h in world.hosts))

        await trio.sleep(5.0)  # Pings tell the round trip, gossip tells the load.
        answered = await world.ask(slow, "hello there " * 60)
        return answered.finished.hops


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ((), 1),
        ((ZoneRule(between=ATTIC, forward=False),), 0),
        ((ZoneRule(between=ATTIC, max_rtt_s=0.00001),), 0),
        ((ZoneRule(between=ATTIC, max_rtt_s=1.0),), 1),
        ((ZoneRule(between=("attic", "cellar"), forward=False),), 1),
    ],
    ids=["no rule", "no forwards", "too far", "near enough", "rule of another zone"],
)
def test_a_rule_decides_whether_a_neighbour_is_asked(
    rules: tuple[ZoneRule, ...], expected: int
) -> None:
    assert run_simulation(1, lambda: hops(rules)) == expected
