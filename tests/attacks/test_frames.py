"""What an admitted host can send as gossip of others: nothing of it is believed or passed on."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import msgspec
import pytest
import trio

from chaos.adversary import forgeries
from chaos.world import Host, until
from overlay.errors import ProtocolError
from overlay.gauges import gossip_counts
from overlay.gossip.messages import Content, Frame, Heads, Repair, StreamHead, decode_message
from overlay.gossip.messages import encode as encode_gossip
from overlay.gossip.stream import CHECKPOINT, DELTA, frame_header
from overlay.gossip.tagset import pack_tags
from security.envelope import Sealer
from security.epoch import TenantEpoch, open_epoch
from security.peer_id import PeerId
from security.revocation import RevocationSet
from security.signed import Kind, SignedObject
from tests.attacks.adversary import KeyHolder, host_of, member_of_beta, repair
from tests.attacks.test_forward import forward, refusal
from tests.attacks.victim import ALPHA, BETA, Victim
from tests.attacks.worlds import honest_overlay, simulated

TOLD_S = 5.0
TAGS = [3, 5, 8]

_signed = msgspec.msgpack.Decoder(SignedObject)


def key_of(victim: Victim, tenant: str) -> TenantEpoch:
    """A tenant's keys as a member knows them: what an adversary has who was given or stole them."""
    epoch = victim.nodes[0].tenants.named(tenant)
    assert epoch is not None
    return epoch


def frame_of(
    own: KeyHolder,
    tenant: TenantEpoch,
    seq: int,
    *,
    checkpoint: bool = False,
    stream: bytes | None = None,
    generation: int | None = None,
    sealed_as: TenantEpoch | None = None,
    v: int = 1,
) -> bytes:
    """A frame that its sender signs with its own key, sealed with a tenant's."""
    generation = own.generation if generation is None else generation
    name = tenant.keys.stream_id(own.peer_id, generation) if stream is None else stream
    sealer = Sealer((sealed_as or tenant).keys, own.peer_id, generation, own.boot_salt)
    content = encode_gossip(Content(pack_tags(TAGS), b"", False))
    header = frame_header(name, generation, seq)
    frame = Frame(
        v=v,
        stream=name,
        generation=generation,
        seq=seq,
        checkpoint=checkpoint,
        envelope=sealer.seal(CHECKPOINT if checkpoint else DELTA, header, content),
    )
    return own.signed(Kind.FRAME, frame)


def tags_known(victim: Victim, own: KeyHolder) -> list[int]:
    return [node.knowledge.gossip.reader.tags_known(own.peer_id) for node in victim.nodes]


async def captured(victim: Victim, own: KeyHolder) -> Repair:
    """All that is signed in the overlay, which an admitted host is told when it comes."""
    async with own.gossiping(victim.honest[0]) as say:
        await say(encode_gossip(Heads(known=[], epochs=[], answer=False)))
        await until(lambda: own.heard().frames)
        await trio.sleep(TOLD_S)
    objects = own.heard()
    assert len(objects.records) >= 2
    assert len(objects.epochs) == 2
    return objects


async def tell(victim: Victim, own: KeyHolder, *messages: bytes) -> None:
    """Says them to both honest hosts, and gives them time to pass it on to each other."""
    async with own.gossiping(victim.honest[0]) as first, own.gossiping(victim.honest[1]) as second:
        for message in messages:
            await first(message)
            await second(message)
        await trio.sleep(TOLD_S)


@simulated
async def test_control_a_member_that_tells_of_itself_is_believed() -> None:
    async with honest_overlay() as victim:
        own = member_of_beta(victim)
        frames = [frame_of(own, key_of(victim, BETA), 1)]
        async with victim.unharmed(by=own.peer_id):
            news = repair(records=[own.record()], heads=[own.head()], frames=frames)
            await tell(victim, own, news)
            assert tags_known(victim, own) == [len(TAGS)] * 2


def altered(objects: Repair) -> Iterator[bytes]:
    """Every object with a byte changed, at places all over it."""
    for kind in ("epochs", "records", "heads", "frames"):
        for data in getattr(objects, kind):
            for place in range(1, len(data), max(1, len(data) // 24)):
                yield repair(
                    **{kind: [data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]]}
                )


def truncated(objects: Repair) -> Iterator[bytes]:
    for kind in ("epochs", "records", "heads", "frames"):
        for data in getattr(objects, kind):
            yield repair(**{kind: [data[:size] for size in (0, 1, len(data) // 2, len(data) - 1)]})


def forged(objects: Repair) -> Iterator[bytes]:
    """Other content under the old signatures: newer numbers, better loads, other addresses."""
    rng = Random(1)
    data = encode_gossip(objects)
    for _ in range(40):
        made = forgeries(data, rng)
        assert made is not None
        yield made


def respelled(objects: Repair) -> Iterator[bytes]:
    """The same values in a longer form of msgpack: the signature would hold."""
    for kind in ("records", "heads", "frames", "epochs"):
        for data in getattr(objects, kind):
            assert data[0] == 0x96
            yield repair(**{kind: [b"\xdc\x00\x06" + data[1:]]})


def resigned(objects: Repair) -> Iterator[bytes]:
    """Another signer's name above the old signature."""
    signers = [_signed.decode(data).signer for data in objects.records]
    for kind in ("records", "heads", "frames"):
        for data in getattr(objects, kind):
            signed = _signed.decode(data)
            for signer in signers:
                if signer != signed.signer:
                    changed = msgspec.structs.replace(signed, signer=signer)
                    yield repair(**{kind: [msgspec.msgpack.encode(changed)]})


def as_another_kind(objects: Repair) -> Iterator[bytes]:
    """A signature for one kind of object, shown as one for another."""
    for data in objects.heads + objects.frames:
        for kind in ("record", "head", "frame", "epoch"):
            changed = msgspec.structs.replace(_signed.decode(data), kind=kind)
            if changed != _signed.decode(data):
                again = msgspec.msgpack.encode(changed)
                yield repair(records=[again], heads=[again], frames=[again], epochs=[again])


@pytest.mark.parametrize(
    "change", [altered, truncated, forged, respelled, resigned, as_another_kind]
)
@simulated
async def test_objects_of_others_that_were_changed(change: object) -> None:
    async with honest_overlay() as victim:
        own = host_of(victim)
        objects = await captured(victim, own)
        async with victim.unharmed(by=own.peer_id):
            assert callable(change)
            messages = list(change(objects))
            assert len(messages) >= 4
            refused = [gossip_counts(node)["refused"] for node in victim.nodes]
            await tell(victim, own, *messages)
            now = [gossip_counts(node)["refused"] for node in victim.nodes]
            assert all(after > before for after, before in zip(now, refused, strict=True))


@simulated
async def test_objects_of_others_that_are_replayed_and_reordered() -> None:
    async with honest_overlay() as victim:
        own = host_of(victim)
        objects = await captured(victim, own)
        async with victim.unharmed(by=own.peer_id):
            once = [
                repair(**{kind: [data]})
                for kind in ("frames", "heads", "records", "epochs")
                for data in getattr(objects, kind)
            ]
            await tell(victim, own, *once, *reversed(once), *once)


@simulated
async def test_a_host_that_restarts_is_shown_what_was_true_before() -> None:
    """The adversary is alone with it: it believes nothing older than what it had stored."""
    async with honest_overlay(policy="local") as victim:
        own, (a, b) = host_of(victim), victim.honest
        old = await captured(victim, own)
        for number in range(3):
            for tenant in (ALPHA, BETA):
                await victim.world.ask(b, f"{number} news " * 60, tenant=tenant)
        await victim.settle()
        victim.world.kill(a)
        victim.world.network.partition([a.name], [b.name])
        await until(lambda: a.node is None)
        await victim.world.start(a)
        origin = b.running.peer_id
        async with own.gossiping(a) as say:
            await say(encode_gossip(old))
            await trio.sleep(TOLD_S)
            assert origin in a.running.knowledge.gossip.origins.known
            assert origin not in holders(a)
            await victim.ask(a)
        victim.world.network.heal()
        # The control: with the newer frames it believes again.
        await until(lambda: origin in holders(a))


def holders(host: Host) -> set[PeerId]:
    """The peers of which a host believes that they have something cached."""
    index = host.running.knowledge.gossip.reader.index
    masks = {mask for table in index._tables.values() for mask in table.tags.values()}
    return {peer_id for mask in masks for peer_id in index.peers(mask)}


@pytest.mark.parametrize("v", [0, 2, 255])
@simulated
async def test_objects_of_another_version(v: int) -> None:
    """Downgraded or from the future: a signer's own objects are not read, and the rest goes on."""
    async with honest_overlay() as victim:
        own = member_of_beta(victim)
        async with victim.unharmed(by=own.peer_id):
            beta = key_of(victim, BETA)
            good = repair(records=[own.record()], heads=[own.head()])
            bad_head = own.head(v=v, streams=[StreamHead(bytes(8), 9, 0)])
            bad_frame = frame_of(own, beta, 1, v=v)
            outer = [
                msgspec.msgpack.encode(msgspec.structs.replace(_signed.decode(data), v=v))
                for data in (own.head(), frame_of(own, beta, 1), own.record(seq=9))
            ]
            bad = repair(
                heads=[bad_head, outer[0]], frames=[bad_frame, outer[1]], records=outer[2:]
            )
            await tell(victim, own, good, bad)
            for node in victim.nodes:
                origin = node.knowledge.gossip.origins.known[own.peer_id]
                assert (origin.record.seq, origin.streams) == (1, {})
                assert origin.head is not None
                assert origin.head.streams == []


@simulated
async def test_a_message_of_a_later_version_of_gossip() -> None:
    """What cannot be understood ends its connection, and no other."""
    async with honest_overlay() as victim:
        own, host = host_of(victim), victim.honest[0]
        async with victim.unharmed(by=own.peer_id):
            for message in (b"", b"\xc1", msgspec.msgpack.encode({"type": "shout", "v": 2})):
                async with own.gossiping(host) as say:
                    await until(lambda: own.peer_id in host.running.peers.up())
                    await say(message)
                    await until(lambda: own.peer_id not in host.running.peers.up())


def writes_as_another(victim: Victim, own: KeyHolder, objects: Repair) -> Iterator[bytes]:
    """Own signature, the stream names of the honest hosts."""
    beta = key_of(victim, BETA)
    for data in objects.frames:
        frame = msgspec.msgpack.decode(_signed.decode(data).body, type=Frame)
        for seq in (1, frame.seq, frame.seq + 1):
            yield frame_of(own, beta, seq, stream=frame.stream, checkpoint=True)
            yield frame_of(own, beta, seq, stream=frame.stream, generation=frame.generation)
            # The captured envelope, as if it were the sender's.
            yield own.signed(Kind.FRAME, msgspec.structs.replace(frame, seq=seq))
            again = msgspec.structs.replace(frame, seq=seq, generation=own.generation)
            yield own.signed(Kind.FRAME, again)


@simulated
async def test_a_member_of_one_tenant_writes_as_another_host() -> None:
    async with honest_overlay() as victim:
        own = member_of_beta(victim)
        objects = await captured(victim, own)
        async with victim.unharmed(by=own.peer_id):
            frames = list(writes_as_another(victim, own, objects))
            await tell(
                victim, own, repair(records=[own.record()], heads=[own.head()], frames=frames)
            )
            assert tags_known(victim, own) == [0, 0]


@simulated
async def test_a_member_of_one_tenant_writes_to_another_one() -> None:
    """It has got hold of alpha's keys; the steward has not put it on alpha's roster."""
    async with honest_overlay() as victim:
        own = member_of_beta(victim)
        alpha, beta = key_of(victim, ALPHA), key_of(victim, BETA)
        frames = [
            frame_of(own, alpha, 1, checkpoint=True),
            frame_of(own, alpha, 1, sealed_as=beta),
            frame_of(own, beta, 1, sealed_as=alpha),
        ]
        async with victim.unharmed(by=own.peer_id):
            await tell(
                victim, own, repair(records=[own.record()], heads=[own.head()], frames=frames)
            )
            assert tags_known(victim, own) == [0, 0]
            for node in victim.nodes:
                assert own.peer_id not in node.knowledge.gossip.reader.index._bits


def taken_off(victim: Victim, own: KeyHolder) -> None:
    """The steward takes it off beta's roster, and both honest hosts have the new epoch."""
    authority = victim.world.authority
    assert authority is not None
    secret = victim.world.entropy("epoch 2").secret
    tenant_id = victim.tenant(BETA)
    victim.world.authority, epoch = authority.remove_member(tenant_id, own.peer_id, secret)
    for node in victim.nodes:
        node.knowledge.learn_epoch(epoch)


@simulated
async def test_the_key_of_an_old_epoch() -> None:
    """Its holder was taken off: at once nothing of it counts, in the minute of change either."""
    async with honest_overlay() as victim:
        own, old = member_of_beta(victim), key_of(victim, BETA)
        await tell(victim, own, repair(records=[own.record()], heads=[own.head()]))
        await tell(victim, own, repair(frames=[frame_of(own, old, 1)]))
        assert tags_known(victim, own) == [len(TAGS)] * 2
        taken_off(victim, own)
        assert tags_known(victim, own) == [0, 0]
        frames = [frame_of(own, old, seq, checkpoint=seq == 3) for seq in (2, 3, 4)]
        async with victim.unharmed(by=own.peer_id):
            await tell(victim, own, repair(frames=frames))
            assert tags_known(victim, own) == [0, 0]
            # Nor is the old object, which names it, taken again.
            await tell(victim, own, repair(epochs=list(victim.guest.epochs)))
            assert key_of(victim, BETA).epoch == old.epoch + 1


@simulated
async def test_a_member_that_was_removed() -> None:
    """It forwards nothing, and all that it is told of the new epoch it cannot read."""
    async with honest_overlay() as victim:
        own = member_of_beta(victim)
        taken_off(victim, own)
        async with victim.unharmed(by=own.peer_id):
            async with own.connected(victim.honest[0]) as connection:
                assert await refusal(connection, forward(victim, BETA)) == "not_a_member"
            objects = await captured(victim, own)
            now = victim.now_unix_s
            trust, keys = own.identity.trust, own.identity.keys
            read = [open_epoch(each, trust, keys, now, RevocationSet()) for each in objects.epochs]
            assert read == [None] * len(objects.epochs)


@simulated
async def test_length_bombs_in_gossip() -> None:
    """Lengths that promise more than there is cost nothing and end their connection."""
    async with honest_overlay() as victim:
        own, host = host_of(victim), victim.honest[0]
        name = b"\xa4type\xa6repair"
        bombs = [
            b"\xdd\xff\xff\xff\xff",
            b"\xdf\xff\xff\xff\xff",
            b"\xc6\xff\xff\xff\xff",
            b"\x82" + name + b"\xa6frames\xdd\xff\xff\xff\xff",
            b"\x82" + name + b"\xa6frames\x91\xc6\xff\xff\xff\xff",
            b"\x91" * 4000,
            encode_gossip(Repair(epochs=[], records=[], heads=[], frames=[b""] * 4096))[:-4096]
            + b"\xc4\x00" * 8192,
        ]
        async with victim.unharmed(by=own.peer_id):
            for bomb in bombs:
                with pytest.raises(ProtocolError):
                    decode_message(bomb)
                async with own.gossiping(host) as say:
                    await until(lambda: own.peer_id in host.running.peers.up())
                    await say(bomb)
                    await until(lambda: own.peer_id not in host.running.peers.up())
