"""What a host with valid keys can do by gossip: harm what it says itself, and nothing else."""

from __future__ import annotations

import msgspec
import pytest

from overlay.errors import ProtocolError
from overlay.gossip.antientropy import ALLOWANCE_BYTES
from overlay.gossip.effects import Effect, LoadLearned, Send
from overlay.gossip.messages import (
    MESSAGE_BYTES_MAX,
    ORIGINS_MAX,
    STREAMS_MAX,
    Bundle,
    Heads,
    Known,
    LoadHint,
    Repair,
    decode_message,
    encode,
)
from overlay.gossip.relay import STREAM_BYTES_MAX, TAIL_FRAMES_MAX
from overlay.gossip.replica import TAGS_MAX
from tests.overlay.gossip.fabric import (
    Fabric,
    Host,
    record_of,
    signed_frame,
    signed_head,
    stream_heads,
)

ALPHA, OTHER = ("alpha",), ("other",)


def world() -> tuple[Fabric, Host, Host, Host]:
    """A and B of tenant alpha, and E, which belongs to another one; all are connected."""
    fabric = Fabric([ALPHA, ALPHA, OTHER])
    fabric.link(0, 1, 2)
    a, b, e = fabric.hosts
    a.cache(a.tenant("alpha"), 1, 12)
    fabric.run(10.0)
    assert b.view(a, b.tenant("alpha")) == a.published(a.tenant("alpha"))
    return fabric, a, b, e


def repair(
    *,
    heads: tuple[bytes, ...] = (),
    frames: tuple[bytes, ...] = (),
    records: tuple[bytes, ...] = (),
) -> bytes:
    return encode(Repair(epochs=[], records=list(records), heads=list(heads), frames=list(frames)))


def give(fabric: Fabric, target: Host, sender: Host, data: bytes) -> list[Effect]:
    return fabric.give(target, sender.peer_id, data)


def carried_frames(host: Host, origin: Host) -> list[bytes]:
    known = host.gossip.origins.known[origin.peer_id]
    return [data for stream in known.streams.values() for _, _, data in stream.after(0)]


def test_a_frame_of_a_host_that_is_not_on_the_roster_is_not_believed() -> None:
    fabric, a, b, e = world()
    alpha = a.tenant("alpha")
    # E has got hold of the tenant's keys, but the issuer has not put it on the roster.
    frame = signed_frame(e, alpha, 1, added=[1, 2, 3])
    give(fabric, b, e, repair(frames=(frame,)))
    assert b.view(e, alpha) == set()
    assert b.gossip.reader.tags_known(e.peer_id) == 0


def test_a_frame_of_a_host_without_a_record_is_not_kept() -> None:
    fabric = Fabric([ALPHA, ALPHA, OTHER])
    a, b, e = fabric.hosts
    frame = signed_frame(a, a.tenant("alpha"), 1, added=[1])
    give(fabric, b, e, repair(heads=(signed_head(a),), frames=(frame,)))
    assert b.gossip.origins.known == {}


def test_old_heads_frames_and_records_change_nothing_when_they_come_again() -> None:
    fabric, a, b, e = world()
    alpha = a.tenant("alpha")
    known = b.gossip.origins.known[a.peer_id]
    head, record, frames = known.head_bytes, known.record_bytes, carried_frames(b, a)
    assert head
    assert frames
    a.cache(alpha, 1, 4)
    a.gossip.describe(addresses=["10.0.0.77:1"], zone=None, models=[])
    fabric.run(10.0)
    view, newer = set(b.view(a, alpha)), b.gossip.origins.known[a.peer_id].head
    old = repair(heads=(head,), frames=tuple(frames), records=(record,))
    for _ in range(2):
        assert give(fabric, b, e, old) == []
    assert b.view(a, alpha) == view == a.published(alpha)
    assert b.gossip.origins.known[a.peer_id].head == newer
    now = record_of(b.gossip, a.peer_id)
    assert now is not None
    assert now.addresses == ("10.0.0.77:1",)


def test_every_single_altered_byte_of_a_frame_is_noticed() -> None:
    fabric, a, b, e = world()
    alpha = a.tenant("alpha")
    stream = alpha.keys.stream_id(a.peer_id, a.generation)
    seq = b.gossip.origins.known[a.peer_id].streams[stream].seq
    frame = signed_frame(a, alpha, seq + 1, added=[5])
    before = set(b.view(a, alpha))
    for place in range(0, len(frame), 3):
        altered = bytearray(frame)
        altered[place] ^= 1
        give(fabric, b, e, repair(frames=(bytes(altered),)))
    assert b.view(a, alpha) == before
    give(fabric, b, e, repair(frames=(frame,)))
    assert b.view(a, alpha) == before | {5}


def test_a_frame_or_head_of_another_generation_is_not_taken() -> None:
    fabric, a, b, e = world()
    alpha = a.tenant("alpha")
    before, streams = set(b.view(a, alpha)), len(b.gossip.origins.known[a.peer_id].streams)
    for generation in (a.generation - 1, a.generation + 1):
        frame = signed_frame(a, alpha, 1, added=[9], generation=generation)
        head = signed_head(a, generation=generation, hseq=10**9)
        assert give(fabric, b, e, repair(frames=(frame,), heads=(head,))) == []
    assert b.view(a, alpha) == before
    assert len(b.gossip.origins.known[a.peer_id].streams) == streams


def test_a_frame_put_under_another_streams_name_or_number_cannot_be_opened() -> None:
    fabric, a, b, e = world()
    alpha = a.tenant("alpha")
    before = set(b.view(a, alpha))
    frame = signed_frame(a, alpha, 1, added=[9], stream=bytes(8))
    give(fabric, b, e, repair(frames=(frame,)))
    assert b.view(a, alpha) == before


@pytest.mark.parametrize(
    "content", [b"", b"\xc1", b"\x93\xc4\x01\x00\xc4\x00\xc2", b"\x90", bytes(40)]
)
def test_malformed_content_by_the_right_signer_changes_nothing_and_a_checkpoint_heals(
    content: bytes,
) -> None:
    fabric, a, b, _ = world()
    alpha = a.tenant("alpha")
    stream = alpha.keys.stream_id(a.peer_id, a.generation)
    seq = b.gossip.origins.known[a.peer_id].streams[stream].seq
    before = set(b.view(a, alpha))
    bad = signed_frame(a, alpha, seq + 1, content=content)
    give(fabric, b, a, repair(frames=(bad,)))
    assert b.view(a, alpha) == before
    assert b.gossip.reader.unreadable == 1
    good = signed_frame(a, alpha, seq + 2, added=[1, 2], checkpoint=True)
    give(fabric, b, a, repair(frames=(good,)))
    assert b.view(a, alpha) == {1, 2}


def test_a_head_of_the_far_future_silences_its_own_signer_only() -> None:
    fabric, a, b, e = world()
    alpha = a.tenant("alpha")
    far = signed_head(e, hseq=(1 << 63) - 1, unix_ms=(1 << 63) - 1)
    effects = give(fabric, b, a, repair(heads=(far,)))
    learned = [effect for effect in effects if isinstance(effect, LoadLearned)]
    assert [effect.peer_id for effect in learned] == [e.peer_id]
    assert learned[0].taken_s <= fabric.now_s
    a.cache(alpha, 4, 12)
    a.gossip.set_load(LoadHint(slots=7))
    fabric.run(10.0)
    assert b.view(a, alpha) == a.published(alpha)
    load = b.gossip.load_of(a.peer_id)
    assert load is not None
    assert load[0].slots == 7
    fabric.restart(e)
    fabric.run(10.0)
    again = b.gossip.origins.known[e.peer_id].head
    assert again is not None
    assert again.hseq < 1000


def test_a_head_may_not_claim_more_streams_than_the_bound() -> None:
    fabric, _, b, e = world()
    before = b.gossip.origins.known[e.peer_id].head
    refused = b.gossip.origins.counters.refused
    head = signed_head(e, hseq=10**6, streams=stream_heads(STREAMS_MAX + 1))
    give(fabric, b, e, repair(heads=(head,)))
    assert b.gossip.origins.known[e.peer_id].head == before
    assert b.gossip.origins.counters.refused == refused + 1


def test_a_head_that_claims_streams_which_never_come_costs_two_questions_a_second() -> None:
    fabric, _, b, e = world()
    asked = 0
    for number in range(20):
        head = signed_head(e, hseq=10**6 + number, streams=stream_heads(STREAMS_MAX))
        data = encode(Bundle(record=None, head=head, frames=[], pad=b""))
        effects = b.gossip.on_message(e.peer_id, data, 1000.0 + number / 20, fabric.unix_s)
        asked += sum(isinstance(effect, Send) for effect in effects)
    assert asked == 2


def test_streams_and_frames_of_one_origin_are_bounded() -> None:
    fabric, a, b, e = world()
    alpha = a.tenant("alpha")
    for number in range(STREAMS_MAX + 20):
        frame = signed_frame(e, alpha, 1, stream=number.to_bytes(8, "big"))
        give(fabric, b, e, repair(frames=(frame,)))
    streams = b.gossip.origins.known[e.peer_id].streams
    assert len(streams) == STREAMS_MAX
    name = next(iter(streams))
    for seq in range(2, 2 * TAIL_FRAMES_MAX):
        give(fabric, b, e, repair(frames=(signed_frame(e, alpha, seq, stream=name),)))
        assert len(streams[name].tail) <= TAIL_FRAMES_MAX
        assert streams[name].size_bytes <= STREAM_BYTES_MAX


def test_tags_of_one_origin_are_bounded() -> None:
    fabric, a, b, e = world()
    alpha = a.tenant("alpha")
    seq = 1000
    for part in range(2):
        tags = range(part * 60_000, (part + 1) * 60_000)
        frame = signed_frame(a, alpha, seq + part, added=tags, checkpoint=part == 0)
        give(fabric, b, e, repair(frames=(frame,)))
    assert len(b.view(a, alpha)) == TAGS_MAX


def test_origins_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlay.gossip.origins.ORIGINS_MAX", 1)
    fabric = Fabric([ALPHA, ALPHA, OTHER])
    fabric.link(0, 1, 2)
    fabric.run(10.0)
    assert [len(host.gossip.origins.known) for host in fabric.hosts] == [1, 1, 1]
    assert all(host.errors == 0 for host in fabric.hosts)


def test_a_host_of_another_overlay_is_not_known() -> None:
    fabric, _, b, e = world()
    other = Fabric([ALPHA, OTHER])
    stranger = other.hosts[1]
    before = set(b.gossip.origins.known)
    data = repair(records=(stranger.gossip.publisher.record(),), heads=(signed_head(stranger),))
    assert give(fabric, b, e, data) == []
    assert set(b.gossip.origins.known) == before


def test_a_member_cannot_speak_for_another() -> None:
    fabric, a, b, e = world()
    alpha = a.tenant("alpha")
    before = set(b.view(a, alpha))
    # B of the tenant knows all its keys, and signs a frame of A's stream as itself.
    stream = alpha.keys.stream_id(a.peer_id, a.generation)
    frame = signed_frame(b, alpha, 1000, added=[4], checkpoint=True, stream=stream)
    give(fabric, a, e, repair(frames=(frame,)))
    give(fabric, b, e, repair(frames=(frame,)))
    assert b.view(a, alpha) == before
    assert a.view(b, alpha) == set()


def test_names_that_are_none_in_a_question_get_an_answer_and_leave_nothing() -> None:
    fabric, _, b, e = world()
    known = [Known(f"nobody {n}", 9, 9, 9, 9, [(bytes(8), 5)]) for n in range(ORIGINS_MAX)]
    before = set(b.gossip.origins.known)
    effects = give(fabric, b, e, encode(Heads(known=known, epochs=[], answer=False)))
    assert sum(isinstance(effect, Send) for effect in effects) <= 2
    assert set(b.gossip.origins.known) == before


def test_made_up_names_in_questions_cost_two_heads_a_second_and_the_askers_allowance() -> None:
    fabric, _, b, e = world()
    known = [Known("nobody", 9, 9, 9, 9, [(bytes(8), 5)])]
    question = encode(Heads(known=known, epochs=b.gossip.epochs.known(), answer=False))
    told = []
    for number in range(40):
        effects = b.gossip.on_message(e.peer_id, question, 1000.0 + number / 20, fabric.unix_s)
        sent = [decode_message(effect.data) for effect in effects if isinstance(effect, Send)]
        told += [message for message in sent if isinstance(message, Heads)]
    assert len(told) == 4
    b.gossip._allowance.spend(e.peer_id, 2 * ALLOWANCE_BYTES, 1010.0)
    assert b.gossip.on_message(e.peer_id, question, 1010.0, fabric.unix_s) == []


def test_records_that_are_none_are_answered_within_the_allowance() -> None:
    fabric, _, b, e = world()
    junk = encode(Bundle(record=b"x", head=b"", frames=[], pad=b""))
    assert len(b.gossip.on_message(e.peer_id, junk, 1000.0, fabric.unix_s)) == 1
    b.gossip._allowance.spend(e.peer_id, 2 * ALLOWANCE_BYTES, 1000.0)
    assert b.gossip.on_message(e.peer_id, junk, 1000.0, fabric.unix_s) == []


def test_a_message_over_the_bound_is_refused() -> None:
    fabric, _, b, e = world()
    with pytest.raises(ProtocolError):
        give(fabric, b, e, bytes(MESSAGE_BYTES_MAX + 1))


def test_a_repair_stays_under_the_bound_of_a_message_however_much_is_lacking(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fabric, a, b, e = world()
    origin = b.gossip.origins.known[a.peer_id]
    copies = {f"{a.peer_id}{number}": origin for number in range(ORIGINS_MAX)}
    monkeypatch.setattr(b.gossip.origins, "known", copies)
    question = encode(Heads(known=[], epochs=[], answer=True))
    (effect,) = b.gossip.on_message(e.peer_id, question, fabric.now_s, fabric.unix_s)
    assert isinstance(effect, Send)
    assert 400_000 < len(effect.data) <= MESSAGE_BYTES_MAX
    assert e.gossip.on_message(b.peer_id, effect.data, fabric.now_s, fabric.unix_s) is not None


def test_a_host_of_very_many_tenants_stays_within_what_the_others_take() -> None:
    tenants = tuple(f"t{number}" for number in range(STREAMS_MAX + 4))
    fabric = Fabric([tenants, tenants])
    fabric.link(0, 1)
    a, b = fabric.hosts
    for epoch in a.tenants().values():
        a.cache(epoch, 1, 12)
    fabric.run(12.0)
    # Many short changes, so that every stream has a delta and a checkpoint in one period.
    for count in range(40):
        for epoch in a.tenants().values():
            a.cache(epoch, 1, 12 + count % 2)
        fabric.run(2.0)
    fabric.run(12.0)
    assert b.errors == 0
    right = [t for t in a.tenants().values() if b.view(a, t) == a.published(t)]
    assert len(right) == STREAMS_MAX


def test_bytes_that_are_a_message_of_another_kind_are_refused() -> None:
    fabric, _, b, e = world()
    for data in (b"", b"\x80", msgspec.msgpack.encode({"type": "hello"}), bytes(64)):
        with pytest.raises(ProtocolError):
            give(fabric, b, e, data)
