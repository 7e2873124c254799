"""Members that say they hold what they do not, to draw a tenant's requests to themselves."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from chaos.claims import TooMuch
from chaos.engine import FaultyEngine
from chaos.modes.asked import prompt_ids
from inference.request import Namespace
from inference.toy import ToyEngine
from security.peer_id import PeerId
from tests.attacks.victim import BETA, Victim
from tests.attacks.worlds import TOY, honest_overlay, simulated

PROMPTS = [f"{number}: " + "the Lanner flows north " * 100 for number in range(40)]


@dataclass
class LyingMember:
    """A member of beta with an engine of its own: ``engine`` is what its peer is given."""

    engine: FaultyEngine = field(default_factory=lambda: FaultyEngine(ToyEngine(TOY)))

    def claim(self, victim: Victim) -> None:
        """Says that every prompt is cached that honest hosts are going to ask for."""
        node = victim.guest.running
        tenant = node.tenants.named(BETA)
        assert tenant is not None
        chain = node.tenants.chain(tenant, self.engine.capabilities().models[0].prefix)
        space = Namespace(tenant.tenant_id)
        hashes = [(space, chain.hashes(prompt_ids(text))) for text in PROMPTS]
        self.engine.claims["claim"] = TooMuch(lambda: hashes, lambda: None)

    def lie(self) -> None:
        """Says of each request, too, that all of its prompt was cached; computes it anew."""
        self.engine.lie("lie", lambda: None)


async def served_by(victim: Victim) -> list[PeerId]:
    """Who answers the prompts, each asked once at the one and once at the other honest host."""
    found = []
    for number, text in enumerate(PROMPTS):
        host = victim.honest[number % 2]
        answered = await victim.world.ask(host, text, tenant=BETA, max_tokens=2)
        assert len(answered.token_ids) == 2
        found.append(answered.finished.served_by)
    return found


async def share_of_guest(victim: Victim) -> tuple[int, int]:
    """Its requests of the first twenty, and of the last twelve."""
    served = [peer_id == victim.guest.running.peer_id for peer_id in await served_by(victim)]
    return sum(served[:20]), sum(served[-12:])


@simulated
async def test_control_a_member_that_says_nothing_gets_its_share() -> None:
    member = LyingMember()
    async with honest_overlay(engine=lambda: member.engine) as victim:
        first, last = await share_of_guest(victim)
        assert first <= 10
        assert last <= 6


@pytest.mark.parametrize("also_in_cached_tokens", [False, True])
@simulated
async def test_a_member_that_claims_every_prompt_loses_its_traffic(
    also_in_cached_tokens: bool,
) -> None:
    """Drawn by the claim at first; each one that is not kept costs trust, whatever it reports."""
    member = LyingMember()
    async with honest_overlay(engine=lambda: member.engine) as victim:
        member.claim(victim)
        if also_in_cached_tokens:
            member.lie()
        first, last = await share_of_guest(victim)
        assert first > 12
        assert last <= 6
        for node in victim.nodes:
            assert node.router.measured.trust(victim.guest.running.peer_id) < 0.1
        async with victim.unharmed(by=victim.guest.running.peer_id):
            pass
