"""A disk that is full for a while."""

from __future__ import annotations

import trio

from chaos.simulation import run_simulation
from chaos.world import until, world_of
from inference.toy import ToyConfig
from overlay.gossip.gossip import FLOORS

TOY = ToyConfig(slots=2, prefill_tokens_per_s=1000.0, decode_s_per_token=0.02, end_every=0)


def test_what_could_not_be_stored_is_stored_when_there_is_room_again() -> None:
    async def main() -> None:
        async with world_of(1, [TOY] * 2) as world:
            a, b = world.hosts
            await until(lambda: all(len(host.running.peers.up()) == 1 for host in world.hosts))
            a.storage.full = b.storage.full = True
            answered = await world.ask(a, "The river Lanner rises on Mount Ashby. " * 12)
            holder = answered.finished.served_by
            other = next(host for host in world.hosts if host.identity.peer_id != holder)
            await until(lambda: other.running.knowledge.prefixes(holder) > 0)
            await trio.sleep(20.0)
            assert other.storage.read(FLOORS) == {}
            other.storage.full = False
            await trio.sleep(5.0)
            assert len(other.storage.read(FLOORS)) == 1

    run_simulation(1, main)
