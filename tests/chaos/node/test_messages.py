"""Rules for gossip messages: how many are lost, and in what bursts."""

from __future__ import annotations

import itertools
from random import Random

import pytest

from chaos.modes.node.messages import Rule

LINK = ("n1", "n2")
COUNT = 40_000


def rule(lose: float, burst: float) -> Rule:
    return Rule(
        links=frozenset({LINK}),
        rng=lambda a, b: Random(f"{a} {b}"),
        on_effect=lambda: None,
        lose=lose,
        burst=burst,
    )


@pytest.mark.parametrize(
    ("lose", "burst", "mean_burst"),
    [
        (0.2, 1.0, 1.25),
        (0.2, 5.0, 5.0),
        (0.05, 8.0, 8.0),
        (0.5, 4.0, 4.0),
        # Nine of ten are lost: a burst has to be nine long where single ones pass.
        (0.9, 2.0, 9.0),
    ],
)
def test_losses_have_the_fraction_and_the_mean_burst(
    lose: float, burst: float, mean_burst: float
) -> None:
    lossy = rule(lose, burst)
    lost = [lossy.loses(LINK) for _ in range(COUNT)]
    assert sum(lost) / COUNT == pytest.approx(lose, rel=0.1)
    bursts = [len(list(group)) for is_lost, group in itertools.groupby(lost) if is_lost]
    assert sum(bursts) / len(bursts) == pytest.approx(mean_burst, rel=0.1)


def test_all_or_nothing() -> None:
    assert not any(rule(0.0, 3.0).loses(LINK) for _ in range(100))
    assert all(rule(1.0, 3.0).loses(LINK) for _ in range(100))


def test_each_link_has_a_stream_of_its_own() -> None:
    together, alone = rule(0.5, 2.0), rule(0.5, 2.0)
    mixed = []
    for _ in range(100):
        together.loses(("n3", "n1"))
        mixed.append(together.loses(LINK))
    assert mixed == [alone.loses(LINK) for _ in range(100)]
