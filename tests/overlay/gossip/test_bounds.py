"""What one peer can make another carry and send, and what gossip costs when nothing happens."""

from __future__ import annotations

import collections

import msgspec
import pytest

from overlay.gossip.antientropy import ALLOWANCE_BYTES, ALLOWANCE_BYTES_PER_S, Allowance
from overlay.gossip.effects import Effect, NewGeneration, Send
from overlay.gossip.epochs import EPOCHS_MAX, Epochs
from overlay.gossip.messages import (
    MESSAGE_BYTES_MAX,
    ORIGINS_MAX,
    STREAMS_MAX,
    Heads,
    Known,
    KnownEpoch,
    Repair,
    decode_message,
    encode,
)
from overlay.gossip.relay import TAIL_FRAMES_MAX, CarriedStream
from security.keys import HostKeys
from security.peer_id import PeerId
from security.record import sign_record
from tests.overlay.gossip.fabric import Fabric, Host, record_of, signed_frame, two_heads
from tests.security.world import seeded

ALPHA, BOTH = ("alpha",), ("alpha", "beta")
IDLE_BYTES_PER_S_MAX = 2000


def carried(host: Host) -> int:
    return sum(origin.size_bytes for _, origin in host.gossip.origins)


def frames_of(host: Host, count: int, tags: int) -> list[bytes]:
    """Checkpoints of many streams, as a host with valid keys can sign them."""
    alpha = host.tenant("alpha")
    return [
        signed_frame(
            host,
            alpha,
            1,
            added=range(tags),
            checkpoint=True,
            stream=number.to_bytes(8, "big"),
        )
        for number in range(count)
    ]


def repair_of(frame: bytes) -> bytes:
    return encode(Repair(epochs=[], records=[], heads=[], frames=[frame]))


@pytest.mark.parametrize("bound", ["ORIGIN_BYTES_MAX", "CARRIED_BYTES_MAX"])
def test_what_is_carried_is_bounded(monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    limit = 100_000
    monkeypatch.setattr(f"overlay.gossip.origins.{bound}", limit)
    fabric = Fabric([ALPHA, ALPHA, ALPHA])
    fabric.link(0, 1, 2)
    a, b, c = fabric.hosts
    fabric.run(6.0)
    for data in frames_of(a, 40, 1000):
        repair = encode(Repair(epochs=[], records=[], heads=[], frames=[data]))
        fabric.give(b, c.peer_id, repair)
        assert carried(b) <= limit
    assert carried(b) > limit // 2
    assert b.gossip.origins.counters.refused > 0
    fabric.run(6.0)
    # Its own head names none of those streams, so that there is room again.
    assert carried(b) < limit // 10
    a.cache(a.tenant("alpha"), 1, 12)
    fabric.run(10.0)
    assert fabric.differences() == []


def test_members_of_our_tenants_find_room_where_others_have_filled_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit = 100_000
    monkeypatch.setattr("overlay.gossip.origins.CARRIED_BYTES_MAX", limit)
    fabric = Fabric([ALPHA, ALPHA, ("other",), ("other",)])
    fabric.link(0, 1, 2, 3)
    a, b, *others = fabric.hosts
    fabric.run(6.0)
    other = others[0].tenant("other")
    for host in others:
        for number in range(40):
            name = number.to_bytes(8, "big")
            data = signed_frame(host, other, 1, added=range(1000), stream=name)
            fabric.give(b, host.peer_id, repair_of(data))
    assert carried(b) > limit - 7000
    for data in frames_of(a, 12, 1000):
        fabric.give(b, a.peer_id, repair_of(data))
    assert b.gossip.origins.known[a.peer_id].size_bytes > 12 * 6000
    assert b.gossip.origins.carried_bytes == carried(b) <= limit
    # Nobody makes room for those who are no members.
    before = b.gossip.origins.known[a.peer_id].size_bytes
    for number in range(40, 60):
        name = number.to_bytes(8, "big")
        data = signed_frame(others[0], other, 1, added=range(1000), stream=name)
        fabric.give(b, others[0].peer_id, repair_of(data))
    assert b.gossip.origins.known[a.peer_id].size_bytes == before
    assert carried(b) <= limit


def shown(heads: list[bytes]) -> bytes:
    return encode(Repair(epochs=[], records=[], heads=heads, frames=[]))


def sent_to(effects: list[Effect]) -> set[PeerId]:
    return {effect.peer_id for effect in effects if isinstance(effect, Send)}


def test_made_up_keys_that_sign_two_heads_cost_nothing() -> None:
    fabric = Fabric([ALPHA, ALPHA, ALPHA])
    fabric.link(0, 1, 2)
    a, b, c = fabric.hosts
    fabric.run(6.0)
    of_a = two_heads(a)
    assert fabric.give(b, c.peer_id, shown(of_a)) != []
    kept = [proof.peer_id for proof in b.gossip.origins.quarantine]
    for number in range(40):
        keys = HostKeys.generate(seeded(1000 + number))
        heads = two_heads(a, keys)
        assert fabric.give(b, c.peer_id, shown(heads)) == []
    assert [proof.peer_id for proof in b.gossip.origins.quarantine] == kept == [a.peer_id]


def test_a_proof_goes_to_some_and_not_back_to_who_has_shown_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("overlay.gossip.gossip.FANOUT", 2)
    fabric = Fabric([ALPHA] * 6)
    fabric.link(*range(6))
    a, b, c, *others = fabric.hosts
    fabric.run(6.0)
    heads = two_heads(a)
    told = sent_to(fabric.give(b, c.peer_id, shown(heads)))
    assert len(told) == 2
    assert told <= {host.peer_id for host in others}


def test_heads_at_all_bounds_are_one_message_and_tell_everything_in_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fabric = Fabric([ALPHA, ALPHA])
    fabric.link(0, 1)
    a, b = fabric.hosts
    fabric.run(6.0)
    origin = b.gossip.origins.known[a.peer_id]
    head = Known(a.peer_id, *[(1 << 63) - 1] * 4, [])
    monkeypatch.setattr(
        type(origin),
        "known",
        lambda _, name: msgspec.structs.replace(
            head,
            origin=name,
            streams=[(n.to_bytes(8, "big"), (1 << 63) - 1) for n in range(STREAMS_MAX)],
        ),
    )
    names = [PeerId(f"{a.peer_id[:-4]}{number:04}") for number in range(ORIGINS_MAX)]
    monkeypatch.setattr(b.gossip.origins, "known", dict.fromkeys(names, origin))
    known = KnownEpoch(bytes(16), bytes(16), (1 << 32) - 1, (1 << 32) - 1)
    monkeypatch.setattr(Epochs, "known", lambda _: [known] * EPOCHS_MAX)
    told: set[str] = set()
    for _ in range(20):
        data = b.gossip._heads(answer=False)
        assert 1_000_000 < len(data) <= MESSAGE_BYTES_MAX
        message = decode_message(data)
        assert isinstance(message, Heads)
        told |= {one.origin for one in message.known}
    assert told >= set(names[:-1])


def test_a_frame_that_comes_in_order_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fabric = Fabric([ALPHA, ALPHA])
    fabric.link(0, 1)
    a, b = fabric.hosts
    alpha = a.tenant("alpha")
    fabric.run(6.0)
    monkeypatch.setattr("overlay.gossip.reader.verify_peer", None)
    fabric.give(b, a.peer_id, repair_of(signed_frame(a, alpha, 1, added=[4])))
    assert b.view(a, alpha) == {4}


def test_the_old_deltas_of_a_stream_that_was_let_go_are_not_taken_again() -> None:
    stream = CarriedStream()
    for seq in range(1, TAIL_FRAMES_MAX + 2):
        stream.add(seq, b"%d" % seq, checkpoint=False)
    assert (stream.seq, stream.size_bytes, stream.after(0)) == (0, 0, [])
    for seq in (1, 2, TAIL_FRAMES_MAX, TAIL_FRAMES_MAX + 1, TAIL_FRAMES_MAX + 2):
        assert not stream.add(seq, b"again", checkpoint=False)
    assert stream.add(TAIL_FRAMES_MAX - 4, b"all", checkpoint=True)
    assert stream.add(TAIL_FRAMES_MAX - 3, b"next", checkpoint=False)
    assert not stream.add(TAIL_FRAMES_MAX - 4, b"all", checkpoint=True)


def test_carried_bytes_follow_what_is_carried() -> None:
    fabric = Fabric([BOTH, BOTH, BOTH], loss=0.2)
    fabric.link(0, 1, 2)
    for number in range(30):
        host = fabric.hosts[number % 3]
        host.cache(host.tenant("alpha"), number % 9, 19 - number % 7)
        fabric.run(2.0)
    fabric.run(2.0)
    for host in fabric.hosts:
        origins = host.gossip.origins
        assert carried(host) > 0
        origins.forget_silent(fabric.now_s, (), 900.0)
        assert origins.carried_bytes == carried(host)
        for _, origin in origins:
            for stream in origin.streams.values():
                kept = [data for _, _, data in stream.after(0)]
                assert stream.size_bytes == sum(map(len, kept))


def test_an_allowance_is_used_up_and_comes_back_with_time() -> None:
    allowance = Allowance()
    a, b = (host.peer_id for host in Fabric([ALPHA, ALPHA]).hosts)
    allowance.spend(a, ALLOWANCE_BYTES, 0.0)
    assert not allowance.is_left(a, 0.0)
    assert allowance.is_left(b, 0.0)
    assert allowance.is_left(a, 1.0)
    allowance.spend(a, 2 * ALLOWANCE_BYTES_PER_S, 1.0)
    assert not allowance.is_left(a, 1.5)
    allowance.forget(a)
    assert allowance.is_left(a, 1.5)


def test_a_peer_that_asks_without_end_gets_no_more_than_its_allowance() -> None:
    fabric = Fabric([ALPHA, ALPHA, ALPHA])
    fabric.link(0, 1, 2)
    a, b, c = fabric.hosts
    fabric.run(6.0)
    for data in frames_of(a, 20, 4000):
        fabric.give(b, a.peer_id, encode(Repair(epochs=[], records=[], heads=[], frames=[data])))
    question = encode(Heads(known=[], epochs=[], answer=True))
    sent = 0
    for number in range(300):
        effects = b.gossip.on_message(c.peer_id, question, 1000.0 + number / 100, fabric.unix_s)
        sent += sum(len(effect.data) for effect in effects if isinstance(effect, Send))
    allowed = ALLOWANCE_BYTES + 3 * ALLOWANCE_BYTES_PER_S + MESSAGE_BYTES_MAX
    assert allowed / 2 < sent <= allowed
    # The other one's allowance is its own.
    assert b.gossip.on_message(a.peer_id, question, 1003.0, fabric.unix_s)


# -- two processes of one identity


def test_two_processes_with_one_generation_learn_of_each_other_through_a_third() -> None:
    fabric = Fabric([ALPHA, ALPHA])
    fabric.link(0, 1)
    a, b = fabric.hosts
    fabric.run(6.0)
    first = a.gossip.publisher.record()
    fabric.unlink(0, 1)
    fabric.boot(a, generation=a.generation)
    a.cache(a.tenant("alpha"), 1, 9)
    fabric.link(0, 1)
    assert b.gossip.origins.known[a.peer_id].record_bytes == first
    fabric.run(10.0)
    assert [effect.above for effect in a.effects if isinstance(effect, NewGeneration)] == [1]
    record = record_of(b.gossip, a.peer_id)
    assert record is not None
    assert record.generation == 2
    assert fabric.differences() == []


def test_of_two_processes_with_one_generation_the_first_one_is_believed() -> None:
    fabric = Fabric([ALPHA, ALPHA])
    fabric.link(0, 1)
    a, b = fabric.hosts
    fabric.run(6.0)
    known = b.gossip.origins.known[a.peer_id]
    other = sign_record(
        a.identity.keys,
        a.identity.trust.overlay_id,
        leaf=a.identity.leaf,
        issuer=a.identity.issuer,
        addresses=["10.9.9.9:1"],
        generation=a.generation,
        boot_salt=bytes(range(16)),
        seq=known.record.seq + 5,
    )
    before = known.record_bytes
    fabric.give(b, a.peer_id, encode(Repair(epochs=[], records=[other], heads=[], frames=[])))
    assert b.gossip.origins.known[a.peer_id].record_bytes == before


# -- freshness


def test_the_age_of_a_digest_grows_while_something_is_lacking_and_ends_with_it() -> None:
    fabric = Fabric([ALPHA, ALPHA])
    fabric.link(0, 1)
    a, b = fabric.hosts
    alpha = a.tenant("alpha")
    assert b.gossip.digest_as_of(a.peer_id) is None
    a.cache(alpha, 1, 12)
    fabric.run(10.0)
    stopped_s = fabric.now_s
    as_of_s = b.gossip.digest_as_of(a.peer_id)
    assert as_of_s is not None
    assert stopped_s - as_of_s <= 2.5
    # Heads come on, and tell of a frame that does not.
    a.cache(alpha, 3, 12)
    a.gossip.publisher.sync(a.tenants(), a.gossip.forest)
    a.gossip.publisher.frames()
    before = set(b.view(a, alpha))
    for number in range(1, 5):
        head = a.gossip.publisher.head(fabric.unix_s + number)
        data = encode(Repair(epochs=[], records=[], heads=[head], frames=[]))
        b.gossip.on_message(a.peer_id, data, fabric.now_s + number, fabric.unix_s + number)
    load = b.gossip.load_of(a.peer_id)
    assert load is not None
    assert load[1] > stopped_s
    assert b.gossip.digest_as_of(a.peer_id) == as_of_s
    assert b.view(a, alpha) == before
    fabric.run(20.0)
    healed_s = b.gossip.digest_as_of(a.peer_id)
    assert healed_s is not None
    assert fabric.now_s - healed_s <= 2.5
    assert fabric.differences() == []


# -- cost


def test_three_idle_hosts_of_two_tenants_send_less_than_two_kilobytes_a_second_each() -> None:
    fabric = Fabric([BOTH] * 3)
    fabric.link(0, 1, 2)
    for host in fabric.hosts:
        for tenant in host.tenants().values():
            for document in range(9):
                host.cache(tenant, document, 18)
    fabric.run(20.0)
    for host in fabric.hosts:
        host.received.clear()
    seconds = 300.0
    fabric.run(seconds)
    sizes: collections.Counter[str] = collections.Counter()
    for host in fabric.hosts:
        for data in host.received:
            sizes[type(decode_message(data)).__name__] += len(data)
    assert sum(sizes.values()) / seconds / 3 <= IDLE_BYTES_PER_S_MAX
    assert sizes["Bundle"] / seconds / 3 == pytest.approx(2 * 512 / 2.0, rel=0.02)
