"""Nobody's word but a host's own makes it look alive, and who carries can only fall silent."""

from __future__ import annotations

import itertools

import pytest
import trio

from chaos.world import Host, until
from overlay.address import Address
from overlay.gossip.messages import Heads
from overlay.gossip.messages import encode as encode_gossip
from overlay.ports import PeerHint
from overlay.transport import frame
from security.keys import HostKeys
from tests.attacks.adversary import AT, KeyHolder, host_of
from tests.attacks.victim import BETA
from tests.attacks.worlds import honest_overlay, simulated


async def carry(own: KeyHolder, giver: Host, taker: Host, *, delay_s: float = 0.0) -> None:
    """Passes on all that one host tells to another one, as a relay should, or late."""
    async with own.gossiping(giver) as ask, own.gossiping(taker) as say:
        await ask(encode_gossip(Heads(known=[], epochs=[], answer=False)))
        for number in itertools.count():
            while len(own.messages) <= number:
                await trio.sleep(0.1)
            await trio.sleep(delay_s)
            await say(own.messages[number])


@simulated
async def test_a_third_party_says_that_a_dead_host_lives() -> None:
    """Its last words are passed on for ever: it is not up, and no request waits for it."""
    async with honest_overlay(guest=True) as victim:
        dead, own = victim.guest, host_of(victim)
        async with own.gossiping(victim.honest[0]) as say:
            await say(encode_gossip(Heads(known=[], epochs=[], answer=False)))
            await until(lambda: len(own.heard().records) >= 3)
        victim.world.kill(dead)
        await until(lambda: all(dead.identity.peer_id not in n.peers.up() for n in victim.nodes))
        async with victim.unharmed(by=own.peer_id):
            last_words = encode_gossip(own.heard())
            async with own.gossiping(victim.honest[0]) as a, own.gossiping(victim.honest[1]) as b:
                for _ in range(20):
                    await a(last_words)
                    await b(last_words)
                    await trio.sleep(1)
                    assert all(dead.identity.peer_id not in n.peers.up() for n in victim.nodes)
        # The control: the host's own connection makes it alive.
        await victim.world.start(dead)
        await until(lambda: all(dead.identity.peer_id in n.peers.up() for n in victim.nodes))


@simulated
async def test_discovery_that_is_made_up() -> None:
    """Names of nobody, and honest names at other addresses: tried, and nothing else."""
    async with honest_overlay() as victim:
        network = victim.world.network
        names = [
            HostKeys.generate(victim.world.entropy(f"nobody {n}").secret).peer_id for n in range(50)
        ]
        async with victim.unharmed():
            for number, name in enumerate([*names, *(node.peer_id for node in victim.nodes)]):
                lie = PeerHint(peer_id=name, addresses=(Address(AT, 1 + number),))
                for host in victim.honest:
                    network.tell(host.name, lie)
                await trio.sleep(0.1)
            for node in victim.nodes:
                assert not set(names) & set(node.peers.up())


@simulated
async def test_pongs_that_nobody_asked_for() -> None:
    """A host that answers ahead looks no nearer, and one that answers nothing is gone in 5 s."""
    async with honest_overlay() as victim:
        own, host = host_of(victim), victim.honest[0]
        async with victim.unharmed(by=own.peer_id), own.raw(host) as channel:
            await until(lambda: own.peer_id in host.running.peers.up())
            connection = host.running.peers.connection(own.peer_id)
            assert connection is not None
            for number in range(40):
                await channel.send_all(frame.encode_ping(frame.PONG, number))
                await trio.sleep(0.1)
                assert connection.rtt_s is None
            await trio.sleep(6)
            assert own.peer_id not in host.running.peers.up()


@pytest.mark.parametrize("delay_s", [0.0, 60.0, None])
@simulated
async def test_a_relay_that_drops_or_delays(delay_s: float | None) -> None:
    """Two hosts that meet through the adversary alone: they know less, and answer as before."""
    async with honest_overlay(policy="local") as victim:
        own, (a, b) = host_of(victim), victim.honest
        network = victim.world.network
        network.partition([a.name], [b.name])
        await until(lambda: not a.running.peers.up() and not b.running.peers.up())
        await victim.world.ask(b, "only b has this " * 40, tenant=BETA)
        known = a.running.knowledge.gossip.reader.tags_known(b.running.peer_id)
        async with trio.open_nursery() as nursery:
            if delay_s is not None:
                nursery.start_soon(lambda: carry(own, b, a, delay_s=delay_s))
            for _ in range(20):
                await victim.ask_everybody()
                await trio.sleep(1)
            assert b.running.peer_id not in a.running.peers.up()
            now = a.running.knowledge.gossip.reader.tags_known(b.running.peer_id)
            assert (now > known) == (delay_s == 0.0)
            nursery.cancel_scope.cancel()
        network.heal()
        await until(lambda: a.running.peers.up() and b.running.peers.up())
        await until(lambda: a.running.knowledge.gossip.reader.tags_known(b.running.peer_id) > known)
        await victim.settle()
