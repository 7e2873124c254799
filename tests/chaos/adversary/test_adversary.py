"""What an adversary makes is what it says: well formed, and false in one way only."""

from __future__ import annotations

from random import Random

import msgspec
import pytest
import trio

from chaos.adversary import Ear, forgeries, own_news, rolled_back, tell, tell_anew
from chaos.simulation import run_simulation
from chaos.world import World, world_of
from inference.toy import ToyConfig
from overlay.gossip.messages import Frame, Head, Repair, decode_frame, decode_head, decode_message
from security.errors import SecurityError
from security.record import open_record
from security.revocation import RevocationSet
from security.signed import Kind, SignedObject, verify_peer

PROMPT = "the first thing that every people know about water is that there are more " * 6
KINDS = (("records", Kind.RECORD), ("heads", Kind.HEAD), ("frames", Kind.FRAME))


async def busy_world(world: World) -> None:
    """Every peer has published something."""
    for host in world.hosts:
        await world.ask(host, PROMPT + host.name)
    await trio.sleep(8)


def repair_of(data: bytes) -> Repair:
    message = decode_message(data)
    assert isinstance(message, Repair)
    return message


def test_forgeries_are_well_formed_and_no_signature_of_them_holds() -> None:
    async def main() -> None:
        async with world_of(1, [ToyConfig()] * 3) as world:
            await busy_world(world)
            # All of it was served by the first one.
            node = world.hosts[1].running
            ear = Ear()
            ear.take(node)
            assert len(ear.heard) == 2
            seen = set()
            for _, data in ear.heard:
                for seed in range(8):
                    forged = forgeries(data, Random(seed))
                    assert forged is not None
                    repair = repair_of(forged)
                    for name, kind in KINDS:
                        for each in getattr(repair, name):
                            seen.add(name)
                            signed = msgspec.msgpack.decode(each, type=SignedObject)
                            assert signed.kind == kind.value
                            with pytest.raises(SecurityError):
                                verify_peer(each, kind, node.identity.trust.overlay_id)
            assert seen == {"records", "heads", "frames"}

    run_simulation(1, main)


def test_what_was_forged_can_be_forged_again() -> None:
    async def main() -> None:
        async with world_of(1, [ToyConfig()] * 2) as world:
            await busy_world(world)
            ear, rng = Ear(), Random(1)
            ear.take(world.hosts[1].running)
            data = ear.heard[0][1]
            for _ in range(40):
                forged = forgeries(data, rng)
                assert forged is not None
                assert forged != data
                data = forged

    run_simulation(1, main)


def test_a_message_without_signed_objects_has_no_forgery() -> None:
    async def main() -> None:
        async with world_of(1, [ToyConfig()] * 2) as world:
            await trio.sleep(5)
            heads = world.hosts[0].running.knowledge.gossip._heads(answer=False)
            assert forgeries(heads, Random(1)) is None
            assert forgeries(b"\x00nothing", Random(1)) is None

    run_simulation(1, main)


def test_news_is_rolled_back_under_signatures_that_hold() -> None:
    async def main() -> None:
        async with world_of(1, [ToyConfig()] * 2) as world:
            await busy_world(world)
            node = world.hosts[0].running
            gossip = node.knowledge.gossip
            overlay_id = node.identity.trust.overlay_id
            clock = node.ports.clock
            back = 2
            repair = repair_of(rolled_back(node, back, clock.unix_s(), Random(1)))
            record = open_record(
                repair.records[0], node.identity.trust, clock.unix_s(), RevocationSet()
            ).value
            assert record.peer_id == node.peer_id
            assert record.seq <= gossip.publisher._record_seq
            head: Head = decode_head(verify_peer(repair.heads[0], Kind.HEAD, overlay_id).value)
            assert head.hseq == gossip.publisher._hseq - back
            frames: list[Frame] = [
                decode_frame(verify_peer(data, Kind.FRAME, overlay_id).value)
                for data in repair.frames
            ]
            assert [frame.checkpoint for frame in frames] == [False, True]
            (stream,) = gossip.publisher._streams.values()
            assert all(frame.seq == max(1, stream.seq - back) for frame in frames)

    run_simulation(1, main)


def test_what_is_told_arrives_and_old_news_changes_nothing() -> None:
    async def main() -> None:
        async with world_of(1, [ToyConfig()] * 3) as world:
            await busy_world(world)
            liar, other = world.hosts[0].running, world.hosts[1].running
            counters = other.knowledge.gossip.origins.counters
            old, accepted = counters.old, counters.accepted
            news = rolled_back(liar, 3, liar.ports.clock.unix_s(), Random(1))
            assert tell(liar, news) == 2
            assert tell(liar, news, to=other.peer_id) == 1
            await trio.sleep(0.1)
            assert counters.accepted == accepted
            assert counters.old > old

    run_simulation(1, main)


def test_an_ear_replays_what_was_heard() -> None:
    async def main() -> None:
        async with world_of(1, [ToyConfig()] * 3) as world:
            await trio.sleep(1)
            node, ear = world.hosts[0].running, Ear()
            ear.listen_at(node)
            await trio.sleep(5)
            senders = {sender for sender, _ in ear.heard}
            assert senders == {host.running.peer_id for host in world.hosts[1:]}
            count = len(ear.heard)
            ear.on = False
            await trio.sleep(5)
            assert len(ear.heard) == count

    run_simulation(1, main)


def test_news_of_its_own_is_what_others_would_believe() -> None:
    async def main() -> None:
        async with world_of(1, [ToyConfig()] * 3) as world:
            await busy_world(world)
            node, other = world.hosts[0].running, world.hosts[1].running
            news = own_news(node, node.ports.clock.unix_s())
            counters = other.knowledge.gossip.origins.counters
            accepted = counters.accepted
            tell(world.hosts[2].running, news, to=other.peer_id)
            await trio.sleep(0.1)
            assert counters.accepted == accepted + 1

    run_simulation(1, main)


def test_the_truth_told_anew_is_a_checkpoint() -> None:
    async def main() -> None:
        async with world_of(1, [ToyConfig()] * 2) as world:
            await busy_world(world)
            node = world.hosts[0].running
            (stream,) = node.knowledge.gossip.publisher._streams.values()
            seq = stream.seq
            tell_anew(node)
            await trio.sleep(3)
            assert (stream.seq, stream._checkpoint_seq) == (seq + 1, seq + 1)

    run_simulation(1, main)
