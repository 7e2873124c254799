"""Connections to other peers: which of two stays, what is dialled again, whom nobody admits."""

from __future__ import annotations

import random
from functools import partial

import msgspec
import pytest
import trio

from chaos.network import SimTransport
from chaos.trace import Trace
from chaos.world import PORT, Host, World, until, world_of
from overlay.address import Address
from overlay.errors import OverlayError
from overlay.peers import ADDRESSES_MAX, FORGET_S, KNOWN_MAX
from overlay.ports import PeerHint
from overlay.transport.limits import Limits
from overlay.transport.link import Judge, establish
from security.certificate import issue_leaf
from security.keys import HostKeys
from security.peer_id import PeerId
from tests.overlay.peers_world import FAST, everybody_ready, simulate

STRANGER = "10.0.8.8"


def dials(trace: Trace, host: Host) -> int:
    return sum((event.peer, event.event) == (host.name, "dial") for event in trace.events)


def believing(peer_id: PeerId) -> Judge:
    """Of a stranger, who takes whom it dialled for that peer."""

    def judge(der: bytes, expected: PeerId | None) -> PeerId:
        return peer_id

    return judge


def made_up(number: int) -> PeerId:
    return HostKeys.generate(random.Random(number).randbytes).peer_id


def test_two_that_dial_each_other_at_once_keep_one_connection() -> None:
    for seed in range(5):

        async def main(seed: int = seed) -> None:
            async with world_of(seed, [FAST] * 3) as world:
                await everybody_ready(world)
                before = {
                    (a.name, b.name): a.running.peers.connection(b.identity.peer_id)
                    for a in world.hosts
                    for b in world.hosts
                    if a is not b
                }
                await trio.sleep(30)
                for a in world.hosts:
                    assert len(a.running.peers.up()) == 2
                    for b in world.hosts:
                        if a is not b:
                            now = a.running.peers.connection(b.identity.peer_id)
                            assert now is before[a.name, b.name], "it is stable"
                assert len(world.network._pipes) >= 6
                ended = sum(pipe._ended for pipe in world.network._pipes)
                assert len(world.network._pipes) - ended == 6, "three connections, two ways each"

        simulate(seed, main)


def test_the_connection_dialled_by_the_smaller_peer_id_stays() -> None:
    async def main() -> None:
        async with world_of(3, [FAST] * 2) as world:
            await everybody_ready(world)
            small, large = sorted(world.hosts, key=lambda host: host.identity.peer_id)
            kept = small.running.peers.connection(large.identity.peer_id)
            assert kept is not None
            assert small.running.peers._up[large.identity.peer_id].dialled_by_us
            hint = PeerHint(peer_id=None, addresses=(Address(small.name, PORT),))
            # Its address by another name, so that it is dialled although it is up.
            large.running.peers._dial_unknown(hint.addresses[0])
            await trio.sleep(5)
            assert small.running.peers.connection(large.identity.peer_id) is kept
            assert large.running.peers.up() == [small.identity.peer_id]

    simulate(3, main)


def test_a_broken_connection_is_made_again_without_any_hint() -> None:
    async def main() -> None:
        async with world_of(4, [FAST] * 2) as world:
            await everybody_ready(world)
            a, b = world.hosts
            first = a.running.peers.connection(b.identity.peer_id)
            world.network.announced.clear()
            sent_before = a.running.peers.sent_bytes()
            for pipe in world.network._pipes:
                pipe.abort()
            await until(lambda: not a.running.peers.up(), timeout_s=1, step_s=0.001)
            await until(lambda: a.running.peers.up() and b.running.peers.up(), timeout_s=3)
            assert a.running.peers.connection(b.identity.peer_id) is not first
            assert a.running.peers.sent_bytes() >= sent_before, "a counter never falls"

    simulate(4, main)


def test_a_peer_that_starts_anew_replaces_its_former_self_at_once() -> None:
    async def main() -> None:
        async with world_of(5, [FAST] * 2) as world:
            await everybody_ready(world)
            a, b = world.hosts
            old = a.running.peers.connection(b.identity.peer_id)
            assert old is not None
            world.network.freeze(b.name)
            assert b.scope is not None
            b.scope.cancel()
            await until(lambda: b.node is None)
            world.network.thaw(b.name)
            await world.start(b)

            def new_one() -> bool:
                now = a.running.peers.connection(b.identity.peer_id)
                return now is not None and now is not old

            await until(new_one, timeout_s=5)
            now = a.running.peers.connection(b.identity.peer_id)
            assert now is not None
            assert now.remote.hello.generation == b.running.generation
            assert now.remote.hello.generation > old.remote.hello.generation

    simulate(5, main)


def test_a_frozen_peer_is_down_by_its_silence_and_up_again_after() -> None:
    async def main() -> None:
        async with world_of(6, [FAST] * 2) as world:
            await everybody_ready(world)
            a, b = world.hosts
            world.network.freeze(b.name)
            began_s = trio.current_time()
            await until(lambda: not a.running.peers.up())
            limits = Limits()
            assert trio.current_time() - began_s < limits.ping_every_s + limits.ping_timeout_s + 1
            await trio.sleep(60)
            world.network.thaw(b.name)
            await until(lambda: a.running.peers.up() and b.running.peers.up(), timeout_s=10)

    simulate(6, main)


def test_hints_are_bounded_and_never_trusted() -> None:
    async def main() -> None:
        async with world_of(7, [FAST] * 2) as world:
            await everybody_ready(world)
            a, b = world.hosts
            peers = a.running.peers
            peers.hint(PeerHint(peer_id=a.identity.peer_id, addresses=(Address(b.name, PORT),)))
            peers.hint(PeerHint(peer_id=made_up(0), addresses=()))
            assert a.identity.peer_id not in peers._known
            many = tuple(Address("10.0.7.1", port) for port in range(1, 200))
            wrong = made_up(1)
            peers.hint(PeerHint(peer_id=wrong, addresses=many))
            peers.hint(PeerHint(peer_id=wrong, addresses=many[::-1]))
            peers.hint(PeerHint(peer_id=b.identity.peer_id, addresses=many))
            assert len(peers._known[wrong].addresses) == ADDRESSES_MAX
            assert len(peers._known[b.identity.peer_id].addresses) == ADDRESSES_MAX
            # Somebody else's name for the address of b: dialled, and never taken for it.
            peers.hint(PeerHint(peer_id=made_up(2), addresses=(Address(b.name, PORT),)))
            for number in range(KNOWN_MAX + 50):
                name = PeerId(f"made up {number:05}")
                peers.hint(PeerHint(peer_id=name, addresses=(Address("10.0.7.2", 1),)))
            assert len(peers._known) == KNOWN_MAX
            await trio.sleep(5)
            assert peers.up() == [b.identity.peer_id]
            assert peers.failed_dials > 10

    simulate(7, main)


def test_a_peer_that_is_never_reached_is_forgotten_until_it_is_heard_of_again() -> None:
    async def main() -> None:
        async with world_of(8, [FAST]) as world:
            (a,) = world.hosts
            peers, gone = a.running.peers, made_up(3)
            hint = PeerHint(peer_id=gone, addresses=(Address("10.0.7.3", 1),))
            peers.hint(hint)
            await trio.sleep(FORGET_S - 20)
            assert gone in peers._known
            await trio.sleep(60)
            assert gone not in peers._known
            peers.hint(hint)
            assert gone in peers._known
            before = dials(world.trace, a)
            await trio.sleep(60)
            assert dials(world.trace, a) - before < 25, "dialling backs off"

    simulate(8, main)


def test_a_bootstrap_address_is_enough_and_is_not_dialled_twice_at_a_time() -> None:
    async def main() -> None:
        world = World(9)
        world.found([FAST] * 2, ("default",))
        a, b = world.hosts
        async with world.started():
            world.network.announced.clear()
            for _ in range(5):
                a.running.peers.hint(PeerHint(peer_id=None, addresses=(Address(b.name, PORT),)))
            await until(lambda: a.running.peers.up() and b.running.peers.up(), timeout_s=3)
            await trio.sleep(5)
            assert a.running.peers.up() == [b.identity.peer_id]

    simulate(9, main)


def test_leaves_that_are_not_good_are_refused_in_both_directions() -> None:
    async def main() -> None:
        async with world_of(10, [FAST]) as world:
            (a,) = world.hosts
            assert world.authority is not None
            entropy = world.entropy("stranger")
            other = World(99)
            other.found([FAST], ("default",))
            now = a.running.ports.clock.unix_s()
            day = 86_400

            def leaf(issued: float, lifetime_s: float = day) -> tuple[HostKeys, bytes]:
                assert world.authority is not None
                keys = HostKeys.generate(entropy.secret)
                issuer = world.authority.issuer
                return keys, issue_leaf(
                    issuer, keys.peer_id, entropy.secret, issued, lifetime_s=lifetime_s
                )

            foreign = other.hosts[0].identity
            strangers = {
                "of another overlay": (foreign.keys, foreign.leaf),
                "expired": leaf(now - 2 * day),
                "of tomorrow": leaf(now + 2 * day),
                "damaged": (foreign.keys, foreign.leaf[:-1] + b"\x00"),
                # Last, and admitted: the others were refused for what is wrong with them.
                "good": leaf(now),
            }
            for name, (keys, der) in strangers.items():
                hello = msgspec.structs.replace(a.running.hello(), peer_id=keys.peer_id)
                transport = SimTransport(world.network, STRANGER, der, a.identity.issuer, None)
                channel = await transport.dial(Address(a.name, PORT), None)
                opening = partial(
                    establish,
                    channel,
                    ours=hello,
                    judge=believing(a.identity.peer_id),
                    expected=None,
                    clock=a.running.ports.clock,
                    entropy=entropy,
                    limits=Limits(),
                )
                if name == "good":
                    await opening()
                    await trio.sleep(0.1)
                    assert a.running.peers.up() == [keys.peer_id]
                    continue
                with pytest.raises(OverlayError):
                    await opening()
                await trio.sleep(1)
                assert a.running.peers.up() == [], name

    simulate(10, main)
