"""A host that tells two stories under one number: both signatures are the proof against it."""

from __future__ import annotations

import pytest
import trio

from chaos.world import until
from overlay.gossip import equivocation
from overlay.gossip.equivocation import PROOFS
from overlay.gossip.messages import LoadHint
from tests.attacks.adversary import KeyHolder, member_of_beta, repair
from tests.attacks.test_frames import frame_of, key_of, tags_known
from tests.attacks.victim import BETA, Victim
from tests.attacks.worlds import honest_overlay, simulated


def two_heads(own: KeyHolder) -> tuple[bytes, bytes]:
    """One number, two loads."""
    first = own.head(load=LoadHint(slots=1))
    own.hseq -= 1
    return first, own.head(load=LoadHint(slots=64))


async def introduce(victim: Victim, own: KeyHolder) -> None:
    """It is known to both, and its frames are read."""
    async with own.gossiping(victim.honest[0]) as say:
        await say(repair(records=[own.record()], heads=[own.head()]))
        await say(repair(frames=[frame_of(own, key_of(victim, BETA), 1)]))
        await until(lambda: all(tags_known(victim, own)))


def in_quarantine(victim: Victim, own: KeyHolder) -> list[bool]:
    return [own.peer_id in node.knowledge.gossip.origins.quarantine for node in victim.nodes]


@pytest.mark.parametrize("together", [False, True])
@simulated
async def test_two_heads_with_one_number(together: bool) -> None:
    """One host catches it, and shows the other: nothing of it is believed any more by anybody."""
    async with honest_overlay() as victim:
        own = member_of_beta(victim)
        await introduce(victim, own)
        async with victim.unharmed(by=own.peer_id):
            heads = list(two_heads(own))
            async with own.gossiping(victim.honest[0]) as say:
                for message in [heads] if together else [heads[:1], heads[1:]]:
                    await say(repair(heads=message))
                await until(lambda: all(in_quarantine(victim, own)))
                # New numbers, a new record and a new generation do not help.
                own.generation += 1
                again = repair(records=[own.record(seq=9)], heads=[own.head()])
                await say(again)
                await trio.sleep(5)
            for host in victim.honest:
                gossip = host.running.knowledge.gossip
                assert own.peer_id not in gossip.origins.known
                assert tags_known(victim, own) == [0, 0]
                (row,) = host.storage.read(PROOFS).values()
                assert all(head in row for head in heads)


@simulated
async def test_a_restart_does_not_end_the_quarantine_and_an_hour_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(equivocation, "QUARANTINE_S", 120.0)
    async with honest_overlay() as victim:
        own, host = member_of_beta(victim), victim.honest[0]
        await introduce(victim, own)
        async with own.gossiping(host) as say:
            await say(repair(heads=list(two_heads(own))))
            await until(lambda: all(in_quarantine(victim, own)))
        await victim.world.restart(host)
        assert all(in_quarantine(victim, own))
        await trio.sleep(130)
        assert in_quarantine(victim, own) == [False, False]
        assert [host.storage.read(PROOFS) for host in victim.honest] == [{}, {}]
        own.generation += 1
        async with own.gossiping(host) as say:
            await say(repair(records=[own.record(seq=2)], heads=[own.head()]))
            await until(lambda: own.peer_id in host.running.knowledge.gossip.origins.known)
        await victim.settle()


@simulated
async def test_control_heads_with_rising_numbers_and_one_that_comes_twice() -> None:
    async with honest_overlay() as victim:
        own = member_of_beta(victim)
        await introduce(victim, own)
        async with own.gossiping(victim.honest[0]) as say, victim.unharmed(by=own.peer_id):
            heads = [own.head(load=LoadHint(slots=slots)) for slots in (1, 2, 3)]
            for message in (heads, heads[::-1], heads[-1:] * 2, heads[:1]):
                await say(repair(heads=message))
            await trio.sleep(5)
            assert in_quarantine(victim, own) == [False, False]


@simulated
async def test_nobody_can_be_put_into_quarantine_by_another() -> None:
    """Heads of an honest host beside forged ones, and beside another's of the same number."""
    async with honest_overlay() as victim:
        own = member_of_beta(victim)
        await introduce(victim, own)
        honest = [node.knowledge.gossip.publisher for node in victim.nodes]
        async with own.gossiping(victim.honest[0]) as say, victim.unharmed(by=own.peer_id):
            for publisher in honest:
                head = publisher.head(victim.now_unix_s)
                forged = head[:-1] + bytes([head[-1] ^ 1])
                own.hseq = publisher._hseq - 1
                own.generation, before = publisher.generation, own.generation
                beside = own.head()
                own.generation = before
                for message in ([head, forged], [forged, head], [head, beside], [beside, head]):
                    await say(repair(heads=message))
            await trio.sleep(5)
            for node in victim.nodes:
                assert list(node.knowledge.gossip.origins.quarantine) == []
