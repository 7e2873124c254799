"""A tenant's epoch changes: routing goes on, and who is left out gets and gives nothing more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pytest

from inference.request import Namespace
from overlay.gossip.effects import Send
from overlay.gossip.epochs import GRACE_S
from overlay.gossip.messages import Bundle, Frame, Repair, decode_frame, decode_message, encode
from overlay.gossip.stream import CHECKPOINT, DELTA, frame_header
from security.certificate import ISSUER_LIFETIME_S, RootKey
from security.envelope import Opener
from security.epoch import TenantEpoch, open_epoch
from security.errors import BadSeal
from security.peer_id import PeerId
from security.signed import Kind, verify_peer
from tests.overlay.gossip.fabric import (
    NOTHING,
    Fabric,
    Host,
    chain,
    record_of,
    signed_frame,
    signed_head,
)

ALPHA = ("alpha",)


def rotate(fabric: Fabric, *, hard: bool = False) -> bytes:
    fabric.authority, data = fabric.authority.rotate(
        fabric.authority.tenant_id("alpha"), fabric.rng.randbytes, hard=hard
    )
    return data


def remove(fabric: Fabric, host: Host) -> bytes:
    fabric.authority, data = fabric.authority.remove_member(
        fabric.authority.tenant_id("alpha"), host.peer_id, fabric.rng.randbytes
    )
    return data


def settled(count: int, *, documents: int = 3, members: Sequence[int] | None = None) -> Fabric:
    """Hosts of tenant alpha, all linked, each with documents of its own that the others know."""
    members = range(count) if members is None else members
    fabric = Fabric([ALPHA if number in members else ("other",) for number in range(count)])
    fabric.link(*range(count))
    for number in members:
        host = fabric.hosts[number]
        for document in range(documents):
            host.cache(host.tenant("alpha"), 30 * number + 3 * document, 9)
    fabric.run(12.0)
    assert fabric.differences() == []
    return fabric


def test_a_process_outlives_its_issuers_first_certificate() -> None:
    """With another one of the same issuer it goes on believing what others sign."""
    fabric = settled(2)
    host, data = fabric.hosts[0], rotate(fabric)
    late_s = fabric.unix_s + ISSUER_LIFETIME_S + 1
    assert host.gossip.learn_epoch(data, fabric.now_s, late_s) == []
    root, secret, keys = fabric.authority.root, fabric.rng.randbytes, host.identity.keys
    assert isinstance(root, RootKey)
    authority = fabric.authority.with_new_certificate(root, secret, late_s - 1)
    _, grant = authority.enrol(keys.peer_id, keys.sealing_public, (), secret, late_s - 1)
    host.identity = host.identity.renewed(grant.leaf, grant.issuer, host.identity.trust)
    host.gossip.adopt(host.identity)
    assert host.gossip.learn_epoch(data, fabric.now_s, late_s) != []


def found(host: Host, origin: int) -> int:
    """Blocks of a document of another host's that a host would count on."""
    claims = host.gossip.lookup(host.tenant("alpha"), chain(30 * origin, 9))
    (depth,) = claims.values() or (0,)
    return depth


def alone(fabric: Fabric, host: Host, epoch: bytes) -> None:
    """Only this host learns of an epoch: what it would pass on is lost."""
    links, fabric.links = fabric.links, set()
    fabric.learn(host, epoch)
    fabric.links = links


# -- a soft change


def test_nothing_that_was_known_is_lost_at_any_moment_of_a_change() -> None:
    fabric = settled(3)
    a, b, c = fabric.hosts
    fabric.learn(a, rotate(fabric))
    for _ in range(16):
        fabric._deliver()
        for here, origin in ((a, 1), (a, 2), (b, 0), (b, 2), (c, 0), (c, 1)):
            assert found(here, origin) == 9
        fabric.run(0.5)
    assert {host.tenant("alpha").epoch for host in fabric.hosts} == {2}
    assert fabric.differences() == []
    assert not any(host.gossip.reader._before.reads for host in fabric.hosts)


def test_who_has_it_from_the_issuer_tells_everybody_at_once() -> None:
    fabric = settled(4)
    fabric.learn(fabric.hosts[0], rotate(fabric))
    fabric._deliver()
    assert [host.tenant("alpha").epoch for host in fabric.hosts] == [2] * 4


def test_what_is_learnt_from_others_is_passed_on_to_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlay.gossip.gossip.FANOUT", 2)
    fabric = settled(6)
    far = fabric.hosts[5]
    epoch = rotate(fabric)
    news = encode(Repair(epochs=[epoch], records=[], heads=[], frames=[]))
    sent = [e for e in fabric.give(fabric.hosts[0], far.peer_id, news) if hasattr(e, "peer_id")]
    assert len(sent) == 2
    assert far.peer_id not in {effect.peer_id for effect in sent}
    assert fabric.give(fabric.hosts[0], far.peer_id, news) == []


def test_an_origin_that_has_not_learnt_yet_is_read_under_the_old_epoch_for_a_while() -> None:
    fabric = settled(2)
    a, b = fabric.hosts
    fabric.unlink(0, 1)
    old = a.tenant("alpha")
    alone(fabric, b, rotate(fabric))
    fabric.links.add(frozenset((0, 1)))
    a.gossip._connected[b.peer_id] = None  # its news reaches b, and no repair of b's reaches it
    a.cache(old, 3, 9)
    a.cache(old, 9, 12)
    for _ in range(int(GRACE_S / 2) - 2):
        fabric.now_s += 2.0
        for effect in a.gossip.on_timer(fabric.now_s, fabric.unix_s):
            if getattr(effect, "peer_id", None) == b.peer_id:
                message = decode_message(effect.data)
                if isinstance(message, Bundle):
                    b.gossip.on_message(a.peer_id, effect.data, fabric.now_s, fabric.unix_s)
        assert found(b, 0) == 9
        assert b.gossip.lookup(b.tenant("alpha"), chain(9, 12)) == {a.peer_id: 12}
    assert b.gossip.reader.tags_known(a.peer_id) > 0
    fabric.now_s += 4.0
    b.gossip.on_timer(fabric.now_s, fabric.unix_s)
    assert b.gossip.lookup(b.tenant("alpha"), chain(9, 12)) == {}
    frame = signed_frame(a, old, 99, checkpoint=True, added=[1])
    b.gossip.on_message(
        a.peer_id,
        encode(Repair(epochs=[], records=[], heads=[], frames=[frame])),
        fabric.now_s,
        fabric.unix_s,
    )
    assert len(b.gossip.reader._before.index) == 0
    assert b.gossip.reader.tags_known(a.peer_id) == 0


def test_the_time_of_the_old_epoch_runs_by_the_readers_own_clock_from_when_it_learnt() -> None:
    fabric = settled(2)
    a, b = fabric.hosts
    fabric.unlink(0, 1)
    fabric.run(200.0)
    alone(fabric, b, rotate(fabric))
    assert b.gossip.epochs.expire(fabric.now_s + GRACE_S - 0.01) is False
    assert found(b, 0) == 9
    assert b.gossip.epochs.expire(fabric.now_s + GRACE_S) is True
    assert a.tenant("alpha").epoch == 1


def test_an_origins_new_stream_ends_its_old_one_and_the_old_one_cannot_be_played_again() -> None:
    fabric = settled(2)
    a, b = fabric.hosts
    old = a.tenant("alpha")
    replayed = signed_frame(a, old, 50, checkpoint=True, added=[77])
    fabric.learn(a, rotate(fabric))
    fabric.run(6.0)
    assert not b.gossip.reader._before.reads
    assert b.gossip.epochs.before
    fabric.give(b, a.peer_id, encode(Repair(epochs=[], records=[], heads=[], frames=[replayed])))
    assert not b.gossip.reader._before.reads
    assert b.view(a, b.tenant("alpha")) == a.published(a.tenant("alpha"))


def test_what_was_known_counts_while_the_first_frames_of_the_new_epoch_are_lost() -> None:
    """The head that ends the old stream comes, and what belongs to the new one does not."""
    fabric = settled(2)
    a, b = fabric.hosts
    fabric.learn(a, rotate(fabric))
    fabric._deliver()
    fabric.now_s += 2.0
    for effect in a.gossip.on_timer(fabric.now_s, fabric.unix_s):
        message = decode_message(effect.data) if isinstance(effect, Send) else None
        if isinstance(message, Bundle):
            bare = encode(msgspec.structs.replace(message, frames=[]))
            b.gossip.on_message(a.peer_id, bare, fabric.now_s, fabric.unix_s)
    origin = b.gossip.origins.known[a.peer_id]
    assert origin.lacking()
    assert origin.ended
    assert found(b, 0) == 9
    fabric.run(8.0)
    assert fabric.differences() == []
    assert not b.gossip.reader._before.reads


def test_a_change_never_lowers_what_was_reached() -> None:
    """Frames of the old epoch that come after those of the new one move no floor."""
    fabric = settled(2)
    a, b = fabric.hosts
    fabric.learn(a, rotate(fabric))
    fabric.run(6.0)
    place = (a.peer_id, a.tenant("alpha").tenant_id)
    assert b.gossip.reader._floors[place][1] == 2
    restarted = fabric.hosts[1]
    fabric.restart(restarted)
    fabric.run(12.0)
    assert restarted.tenant("alpha").epoch == 2
    assert restarted.gossip.reader._floors[place][1] == 2
    assert not restarted.gossip.epochs.before, "what was learnt before a start begins no time anew"


def test_an_origin_that_has_nothing_cached_any_more_is_not_believed_to_have() -> None:
    fabric = settled(2, documents=1)
    a, b = fabric.hosts
    a.gossip.forest.tree(Namespace(a.tenant("alpha").tenant_id)).clear()
    fabric.learn(a, rotate(fabric))
    fabric.run(4.0)
    assert b.gossip.lookup(b.tenant("alpha"), chain(0, 9)) == {}


# -- removal


def test_everything_of_a_removed_member_is_dropped_at_once() -> None:
    fabric = settled(3)
    a, b, c = fabric.hosts
    old = c.tenant("alpha")
    assert found(a, 2) == found(b, 2) == 9
    fabric.learn(a, remove(fabric, c))
    assert a.gossip.lookup(a.tenant("alpha"), chain(60, 9)) == {}
    assert a.gossip.reader.tags_known(c.peer_id) == 0
    fabric._deliver()
    assert b.gossip.lookup(b.tenant("alpha"), chain(60, 9)) == {}
    assert c.tenants() == {}
    # It holds on to the old epoch's keys, and signs and seals what it likes.
    late = signed_frame(c, old, 60, checkpoint=True, added=[5])
    head = signed_head(c, hseq=999, streams=[])
    fabric.give(a, c.peer_id, encode(Repair(epochs=[], records=[], heads=[], frames=[late])))
    fabric.give(a, c.peer_id, encode(Repair(epochs=[], records=[], heads=[head], frames=[])))
    assert a.gossip.reader.tags_known(c.peer_id) == 0
    assert found(a, 1) == 9, "the others are read all the while"


def test_a_removed_member_reads_nothing_that_is_published_after_the_change() -> None:
    """With all the keys that it ever had, on every message that anybody sends to anybody."""
    fabric = settled(3)
    a, b, c = fabric.hosts
    old = c.tenant("alpha")
    for host in fabric.hosts:
        host.received.clear()
    fabric.learn(a, remove(fabric, c))
    fabric._deliver()
    for document in (90, 93, 96):
        for host in (a, b):
            host.cache(host.tenant("alpha"), document, 9)
        fabric.run(4.0)
    captured = [data for host in fabric.hosts for data in host.received]
    frames, epochs = contents(captured, fabric)
    assert frames
    assert epochs
    made_after = [frame for frame in frames if not was_there(frame, old)]
    assert made_after
    assert [frame for frame in made_after if opens(frame, old, fabric)] == []
    for data in epochs:
        assert (
            open_epoch(data, fabric.authority.trust, c.identity.keys, fabric.unix_s, NOTHING)
            is None
        )
    # The same step with a member's keys opens them all.
    new = a.tenant("alpha")
    assert all(opens(frame, new, fabric) for frame in made_after)


def test_nothing_is_sealed_under_the_old_epoch_after_it_has_ended() -> None:
    fabric = settled(2)
    a, b = fabric.hosts
    alone(fabric, a, rotate(fabric))
    b.received.clear()
    a.cache(a.tenant("alpha"), 90, 9)
    fabric.run(4.0)
    frames, _ = contents(b.received, fabric)
    names = {frame.stream for _, frame in frames}
    assert names == {a.tenant("alpha").keys.stream_id(a.peer_id, a.generation)}


def test_a_member_that_is_taken_in_again_is_read_again() -> None:
    fabric = settled(3)
    a, b, c = fabric.hosts
    fabric.learn(a, remove(fabric, c))
    fabric.run(4.0)
    fabric.authority, back = fabric.authority.add_member(
        a.tenant("alpha").tenant_id,
        c.peer_id,
        c.identity.keys.sealing_public,
        fabric.rng.randbytes,
    )
    fabric.learn(a, back)
    fabric.run(8.0)
    assert c.tenant("alpha").epoch == 2
    assert fabric.differences() == []
    assert found(b, 2) == 9


# -- a hard rotation


def test_after_a_hard_rotation_nothing_old_is_looked_up_or_kept() -> None:
    fabric = settled(2)
    a, b = fabric.hosts
    fabric.learn(a, rotate(fabric, hard=True))
    fabric._deliver()
    assert b.tenant("alpha").epoch == 2
    assert not b.gossip.epochs.before
    assert b.gossip.lookup(b.tenant("alpha"), chain(0, 9)) == {}
    fabric.run(8.0)
    assert fabric.differences() == []


def test_relays_keep_one_object_of_a_tenant_whatever_is_rotated() -> None:
    fabric = settled(3, members=(0, 1))
    relay = fabric.hosts[2]
    before = len(relay.gossip.epochs._carried)
    for number in range(6):
        fabric.learn(fabric.hosts[0], rotate(fabric, hard=number % 2 == 0))
        fabric.run(4.0)
    assert len(relay.gossip.epochs._carried) == before
    assert all(len(host.rows["epochs"]) <= 2 for host in fabric.hosts)
    assert fabric.hosts[1].tenant("alpha").epoch == 7


def test_relays_let_the_streams_of_an_old_epoch_go() -> None:
    fabric = settled(3, members=(0, 1))
    relay = fabric.hosts[2]
    origin = relay.gossip.origins.known[fabric.hosts[0].peer_id]
    before = set(origin.streams)
    fabric.learn(fabric.hosts[0], rotate(fabric))
    fabric.run(6.0)
    after = set(relay.gossip.origins.known[fabric.hosts[0].peer_id].streams)
    assert len(after) == len(before) == 1
    assert not after & before


def test_a_stream_that_has_ended_is_not_brought_back_by_who_has_not_heard_of_its_end() -> None:
    """Else its first frames would be accepted after its last ones."""
    fabric = settled(2)
    a, b = fabric.hosts
    origin = b.gossip.origins.known[a.peer_id]
    ((name, stream),) = origin.streams.items()
    frames = [data for _, _, data in stream.after(0)]
    assert frames
    fabric.learn(a, rotate(fabric))
    fabric.run(6.0)
    accepted = b.gossip.origins.counters.accepted
    late = encode(Repair(epochs=[], records=[], heads=[], frames=frames))
    b.gossip.on_message(a.peer_id, late, fabric.now_s, fabric.unix_s)
    assert name not in origin.streams
    assert b.gossip.origins.counters.accepted == accepted


def test_the_names_of_ended_streams_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlay.gossip.relay.ENDED_MAX", 3)
    fabric = settled(2)
    a, b = fabric.hosts
    for _ in range(6):
        fabric.learn(a, rotate(fabric))
        fabric.run(4.0)
    assert len(b.gossip.origins.known[a.peer_id].ended) == 3


# -- what was captured

Sealed = tuple[PeerId, Frame]


def contents(messages: Sequence[bytes], fabric: Fabric) -> tuple[list[Sealed], list[bytes]]:
    """Every frame and every EPOCH object in some messages."""
    frames: dict[bytes, None] = {}
    epochs: dict[bytes, None] = {}
    for data in messages:
        message = decode_message(data)
        if isinstance(message, Bundle | Repair):
            frames.update(dict.fromkeys(message.frames))
        if isinstance(message, Repair):
            epochs.update(dict.fromkeys(message.epochs))
    found = []
    for data in frames:
        signed = verify_peer(data, Kind.FRAME, fabric.authority.trust.overlay_id)
        found.append((PeerId(signed.signer), decode_frame(signed.value)))
    return found, list(epochs)


def was_there(sealed: Sealed, old: TenantEpoch) -> bool:
    """Whether a frame is of a stream of the old epoch: published before."""
    origin, frame = sealed
    return frame.stream == old.keys.stream_id(origin, frame.generation)


def opens(sealed: Sealed, tenant: TenantEpoch, fabric: Fabric) -> bool:
    """Whether these keys open a frame, as whatever kind and under whatever epoch's number."""
    origin, frame = sealed
    record = next(
        found for host in fabric.hosts if (found := record_of(host.gossip, origin)) is not None
    )
    header = frame_header(frame.stream, frame.generation, frame.seq)
    numbered = int.from_bytes(frame.envelope[1:5], "big")
    for epoch in {tenant.epoch, numbered}:
        keys = replace(tenant.keys, epoch=epoch)
        opener = Opener(keys, origin, frame.generation, record.boot_salt)
        for kind in (DELTA, CHECKPOINT):
            try:
                opener.open(kind, header, frame.envelope)
            except BadSeal:
                continue
            return True
    return False
