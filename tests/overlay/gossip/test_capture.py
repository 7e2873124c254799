"""Everything that a host which is no member receives and stores, searched for what tells of it.

Messages of all kinds, over joins, rotations, a removal and a restart. Beside each search a positive
control: what a member receives is the same, and holds all of it once it is opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from inference.blocks import BlockChain
from inference.request import PrefixIdentity
from overlay.gossip.messages import (
    Bundle,
    Content,
    Heads,
    Repair,
    decode_content,
    decode_frame,
    decode_message,
)
from overlay.gossip.stream import CHECKPOINT, DELTA, frame_header
from overlay.gossip.tagset import unpack_tags
from security.envelope import Opener
from security.epoch import TenantEpoch, object_id_of, open_epoch
from security.errors import BadSeal
from security.peer_id import PeerId, public_bytes_of
from security.signed import Kind, verify_peer
from security.tags import tags_of
from security.tenant_keys import TenantKeys
from tests.overlay.gossip.fabric import (
    NOTHING,
    SECRET_NAME,
    Fabric,
    Host,
    chain,
    record_of,
    signed_frame,
)

DOCUMENTS = range(0, 18, 3)
IDENTITY = PrefixIdentity(served_model="m", tokenizer="t", template="t")
PROMPT = list(range(64))


@dataclass
class Story:
    """Members 0 and 2, the outsider 1 between them, and 3, which comes, goes and looks on after."""

    fabric: Fabric
    epochs: list[TenantEpoch] = field(default_factory=list)

    @property
    def outsider(self) -> Host:
        return self.fabric.hosts[1]

    @property
    def member(self) -> Host:
        return self.fabric.hosts[2]

    def note(self) -> None:
        self.epochs.append(self.fabric.hosts[0].tenant(SECRET_NAME))


def story() -> Story:
    fabric = Fabric([(SECRET_NAME,), ("other",), (SECRET_NAME,), ("other",)])
    fabric.link(0, 1, 2, 3)
    told = Story(fabric)
    first, _, member, comer = fabric.hosts
    tenant_id = fabric.authority.tenant_id(SECRET_NAME)
    secret = fabric.rng.randbytes
    told.note()

    def cached(host: Host) -> None:
        for document in DOCUMENTS:
            host.cache(host.tenant(SECRET_NAME), document, 12)
            fabric.run(2.0)

    def learnt(change: tuple[object, bytes]) -> None:
        authority, data = change
        fabric.authority = authority  # type: ignore[assignment]  # an Authority
        fabric.learn(first, data)
        fabric.run(4.0)
        told.note()

    cached(first)
    cached(member)
    keys = comer.identity.keys
    learnt(fabric.authority.add_member(tenant_id, keys.peer_id, keys.sealing_public, secret))
    learnt(fabric.authority.rotate(tenant_id, secret))
    learnt(fabric.authority.remove_member(tenant_id, keys.peer_id, secret))
    fabric.restart(member)
    fabric.run(10.0)
    cached(member)
    learnt(fabric.authority.rotate(tenant_id, secret, hard=True))
    fabric.run(10.0)
    return told


def test_no_record_that_an_outsider_can_read_names_a_tenant() -> None:
    told = story()
    outsider = told.outsider
    kinds = {type(decode_message(data)) for data in outsider.received}
    assert kinds == {Bundle, Heads, Repair}, "all kinds of message were captured"
    stored = [part for table in outsider.rows.values() for pair in table.items() for part in pair]
    seen = b"\0".join([*outsider.received, *stored])
    assert b"10.0.0.0:7401" in seen, "the search itself works: records are in clear"
    assert [name for name, mark in marks(told) if mark in seen] == []
    # Members and their keys stand in no EPOCH object; their ids sign their own news, of course.
    epochs = b"\0".join(epochs_in(outsider.received))
    assert len(epochs) > 5000
    for host in told.fabric.hosts:
        for mark in (
            host.peer_id.encode(),
            public_bytes_of(host.peer_id),
            host.identity.keys.sealing_public,
        ):
            assert mark not in epochs


def test_what_a_member_receives_does_hold_it_once_it_is_opened() -> None:
    told = story()
    member, found = told.member, bytearray()
    for data in epochs_in(member.received):
        opened = open_epoch(
            data, told.fabric.authority.trust, member.identity.keys, told.fabric.unix_s, NOTHING
        )
        if opened is not None:
            found += repr(opened.value).encode()
            found += opened.value.keys.tag_key + bytes.fromhex(opened.value.tenant_id)
    tags: set[int] = set()
    for tenant in told.epochs:
        for content in opened_by(tenant.keys, member.received, told.fabric):
            tags.update(unpack_tags(content.added))
    assert SECRET_NAME.encode() in found
    assert told.epochs[0].tenant_id.encode() in found
    published = {tag for tenant in told.epochs for tag in tags_of(tenant.keys.tag_key, blocks())}
    assert len(tags & published) > 20
    assert told.epochs[-1].keys.tag_key in found


def test_an_outsider_opens_nothing_and_confirms_no_guess_with_whatever_it_has() -> None:
    """It knows the very prompt, the model, the tenant's id, its own tenants' keys and all hosts."""
    told = story()
    outsider, fabric = told.outsider, told.fabric
    real = told.epochs[0]
    theirs = tags_of(real.keys.tag_key, BlockChain(real.keys.chain_key, IDENTITY).hashes(PROMPT))
    frame = signed_frame(fabric.hosts[0], told.epochs[-1], 1_000, added=theirs, checkpoint=True)
    captured = [
        *outsider.received,
        msgspec.msgpack.encode(Repair(epochs=[], records=[], heads=[], frames=[frame])),
    ]
    own = outsider.tenant("other").keys
    public = bytes.fromhex(real.tenant_id) * 2
    guesses = [
        own,
        replace(own, tenant_id=real.tenant_id),
        *(
            TenantKeys.derive(
                tenant_id=real.tenant_id, epoch=epoch, epoch_key=key, chain_secret=key
            )
            for key in (bytes(32), public, outsider.identity.keys.sealing_public)
            for epoch in range(1, 5)
        ),
    ]
    seen = b"".join(captured)
    for keys in guesses:
        assert list(opened_by(keys, captured, fabric)) == []
        guessed = tags_of(keys.tag_key, BlockChain(keys.chain_key, IDENTITY).hashes(PROMPT))
        assert not any(tag.to_bytes(6, "big") in seen for tag in guessed)
    # The same step with a member's keys confirms the guess: inside a tenant it can be done.
    opened = [
        tag
        for content in opened_by(told.epochs[-1].keys, captured, fabric)
        for tag in unpack_tags(content.added)
    ]
    assert set(theirs) <= set(opened)


def test_what_an_outsider_makes_of_it_is_believed_by_nobody() -> None:
    """It resends, relabels and mixes what it carries, under its own name and under others'."""
    told = story()
    fabric, outsider, member = told.fabric, told.outsider, told.member
    before = dict(member.gossip.reader._floors)
    known = {place: set(read.replica.tags) for place, read in member.gossip.reader.reads.items()}
    frames = [data for message in outsider.received for data in frames_in(message)]
    own = outsider.tenant("other")
    forged = [
        signed_frame(outsider, own, seq, checkpoint=True, added=[7], stream=decoded.stream)
        for seq, decoded in enumerate(map(frame_of(fabric), frames[-6:]), start=500)
    ]
    for data in (*frames, *forged):
        repair = Repair(epochs=[], records=[], heads=[], frames=[data])
        member.gossip.on_message(
            outsider.peer_id, msgspec.msgpack.encode(repair), fabric.now_s, fabric.unix_s
        )
    assert member.gossip.reader._floors == before
    assert {
        place: set(read.replica.tags) for place, read in member.gossip.reader.reads.items()
    } == known
    assert member.gossip.reader.tags_known(outsider.peer_id) == 0


# -- what is searched for, and in what


def blocks() -> list[bytes]:
    return [name for document in DOCUMENTS for name in chain(document, 12)]


def marks(told: Story) -> Iterable[tuple[str, bytes]]:
    """Everything that says something of the tenant, by what it is."""
    authority = told.fabric.authority
    content = authority.tenants[told.epochs[0].tenant_id].content
    yield "name", SECRET_NAME.encode()
    yield "id", content.tenant_id.encode()
    yield "raw id", bytes.fromhex(content.tenant_id)
    yield "nonce", content.nonce
    yield "chain secret", content.chain_secret
    yield "object id of the new chain secret", object_id_of(content.chain_secret, content.tenant_id)
    for tenant in told.epochs:
        for name in ("chain_key", "salt", "tag_key", "_epoch_key", "_stream_key"):
            yield f"{name} of epoch {tenant.epoch}", getattr(tenant.keys, name)
        for tag in tags_of(tenant.keys.tag_key, blocks()):
            yield "tag", tag.to_bytes(6, "big")
            yield "tag, little-endian", tag.to_bytes(6, "little")
    for block in blocks():
        yield "chain hash", block
        yield "chain hash as hex", block.hex().encode()


def frames_in(data: bytes) -> list[bytes]:
    message = decode_message(data)
    return list(message.frames) if isinstance(message, Bundle | Repair) else []


def frame_of(fabric: Fabric):  # type: ignore[no-untyped-def]  # noqa: ANN201 - a reader of frames
    overlay_id = fabric.authority.trust.overlay_id
    return lambda data: decode_frame(verify_peer(data, Kind.FRAME, overlay_id).value)


def epochs_in(messages: Sequence[bytes]) -> list[bytes]:
    found = []
    for data in messages:
        message = decode_message(data)
        if isinstance(message, Repair):
            found += message.epochs
    return found


def opened_by(keys: TenantKeys, messages: Sequence[bytes], fabric: Fabric) -> Iterable[Content]:
    """What these keys open of all the frames in some messages, whatever epoch a frame names."""
    overlay_id = fabric.authority.trust.overlay_id
    salts = {
        host.peer_id: record.boot_salt
        for host in fabric.hosts
        for other in fabric.hosts
        if (record := record_of(other.gossip, host.peer_id)) is not None
    }
    for data in dict.fromkeys(frame for message in messages for frame in frames_in(message)):
        signed = verify_peer(data, Kind.FRAME, overlay_id)
        frame = decode_frame(signed.value)
        origin = PeerId(signed.signer)
        header = frame_header(frame.stream, frame.generation, frame.seq)
        for epoch in {keys.epoch, int.from_bytes(frame.envelope[1:5], "big")}:
            opener = Opener(replace(keys, epoch=epoch), origin, frame.generation, salts[origin])
            for kind in (DELTA, CHECKPOINT):
                try:
                    yield decode_content(opener.open(kind, header, frame.envelope))
                except BadSeal:
                    continue
