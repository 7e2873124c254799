"""The overlay that is attacked, without an attack: it is at rest, and a change of it is noticed."""

from __future__ import annotations

import pytest
import trio

from tests.attacks.victim import ALPHA, QUESTION
from tests.attacks.worlds import honest_overlay, real_overlay, simulated


@simulated
async def test_an_overlay_at_rest_is_unharmed_by_nothing() -> None:
    async with honest_overlay(guest=True) as victim:
        async with victim.unharmed():
            await trio.sleep(20)
        assert victim.asked > 20


async def test_a_real_overlay_at_rest_is_unharmed_by_nothing() -> None:
    async with real_overlay() as victim, victim.unharmed():
        await trio.sleep(0.2)


@simulated
async def test_one_more_cached_prompt_is_a_change_that_is_noticed() -> None:
    async with honest_overlay() as victim:
        with pytest.raises(AssertionError, match="has changed"):
            async with victim.unharmed():
                await victim.world.ask(victim.honest[0], QUESTION[::-1], tenant=ALPHA)
