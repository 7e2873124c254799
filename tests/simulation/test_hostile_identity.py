"""Peers that are revoked, or use a stolen key: what the others still believe of them."""

from __future__ import annotations

import pytest
import trio

from chaos.adversary import own_news, tell
from chaos.simulation import run_simulation
from chaos.world import world_of
from inference.toy import ToyConfig
from overlay.generation import AHEAD_MAX_S
from overlay.gossip.gossip import GossipConfig
from overlay.gossip.messages import Repair, encode
from overlay.node import Node
from security.record import sign_record

THREE = [ToyConfig()] * 3


def copy_of(node: Node, generation: int) -> bytes:
    """A record that another process with a node's keys would sign."""
    own = node.identity
    return sign_record(
        own.keys,
        own.trust.overlay_id,
        leaf=own.leaf,
        issuer=own.issuer,
        addresses=("10.0.0.1:7401",),
        generation=generation,
        boot_salt=bytes(16),
        seq=1,
    )


def test_news_of_a_revoked_peer_changes_nothing_whoever_brings_it() -> None:
    async def main() -> None:
        async with world_of(1, THREE) as world:
            await trio.sleep(5)
            bad, friend, other = (host.running for host in world.hosts)
            revoked = world.revocation(bad.peer_id)
            friend.revoke(revoked)
            other.revoke(revoked)
            assert bad.peer_id not in other.knowledge.gossip.origins.known
            assert other.knowledge.models(bad.peer_id) == ()
            await trio.sleep(5)
            refused = other.knowledge.gossip.origins.counters.refused
            tell(friend, own_news(bad, bad.ports.clock.unix_s()), to=other.peer_id)
            await trio.sleep(0.05)
            assert other.knowledge.gossip.origins.counters.refused > refused
            assert bad.peer_id not in other.knowledge.gossip.origins.known
            assert other.knowledge.prefixes(bad.peer_id) == 0

    run_simulation(1, main)


def test_what_waits_from_a_peer_when_it_is_revoked_is_not_taken_in() -> None:
    async def main() -> None:
        async with world_of(1, THREE) as world:
            await trio.sleep(5)
            bad, other, _ = (host.running for host in world.hosts)
            connection = other.peers.connection(bad.peer_id)
            assert connection is not None
            other.revoke(world.revocation(bad.peer_id))
            assert connection.closed == "not admitted"
            await trio.sleep(1)
            assert bad.peer_id not in other.peers.up()

    run_simulation(1, main)


@pytest.mark.parametrize("generation", [(1 << 63) - 1, (1 << 63) - 2, 1 << 62])
def test_a_stolen_key_cannot_use_up_all_generations(generation: int) -> None:
    async def main() -> None:
        async with world_of(1, THREE) as world:
            await trio.sleep(5)
            victim, friend, other = (host.running for host in world.hosts)
            before = victim.generation
            record = copy_of(victim, generation)
            tell(friend, encode(Repair(epochs=[], records=[record], heads=[], frames=[])))
            await trio.sleep(20)
            assert victim.generation == before
            assert len(other.peers.up()) == 2
            await world.ask(world.hosts[0], "hello there")

    run_simulation(1, main)


def test_a_plausible_generation_of_a_copy_is_jumped_above() -> None:
    async def main() -> None:
        async with world_of(1, THREE) as world:
            await trio.sleep(5)
            victim, friend, other = (host.running for host in world.hosts)
            ahead = int((victim.ports.clock.unix_s() + AHEAD_MAX_S / 2) * 1000)
            record = copy_of(victim, ahead)
            tell(friend, encode(Repair(epochs=[], records=[record], heads=[], frames=[])))
            await trio.sleep(20)
            assert victim.generation > ahead
            assert len(other.peers.up()) == 2

    run_simulation(1, main)


def test_nothing_of_routing_is_left_of_a_forgotten_peer() -> None:
    async def main() -> None:
        async with world_of(1, THREE, gossip=GossipConfig(forget_s=20.0)) as world:
            await trio.sleep(5)
            node, gone = world.hosts[0].running, world.hosts[2].running.peer_id
            await world.ask(world.hosts[0], "hello there")
            world.kill(world.hosts[2])
            await trio.sleep(60)
            router = node.router
            kept = {
                "origins": gone in node.knowledge.gossip.origins.known,
                "accounts": gone in router.bookings._accounts,
                "generations": gone in router._generations,
                "measured": gone in router.measured._peers,
                "suspects": gone in router.probation._past,
                "models": bool(node.knowledge.models(gone)),
            }
            assert kept == dict.fromkeys(kept, False)

    run_simulation(1, main)
