"""Peers that are gone: they are let go, stay gone whatever others tell, and come back by their own
signature only."""

from __future__ import annotations

import pytest

from overlay.gossip.effects import RecordForgotten
from overlay.gossip.gossip import GossipConfig
from overlay.gossip.graves import GRAVES_MAX, KEPT_S, Graves
from overlay.gossip.messages import Known, Repair, encode
from security.peer_id import PeerId
from tests.overlay.gossip.fabric import Fabric, Host, record_of, signed_head

ALPHA = ("alpha",)
FORGET_S = GossipConfig().forget_s


def gone() -> tuple[Fabric, Host, Host, Host, Repair]:
    """A was known to B and C and has been away for long; what was said of it is at hand."""
    fabric = Fabric([ALPHA, ALPHA, ALPHA])
    fabric.link(0, 1, 2)
    a, b, c = fabric.hosts
    a.cache(a.tenant("alpha"), 1, 12)
    fabric.run(20.0)
    known = b.gossip.origins.known[a.peer_id]
    frames = [data for stream in known.streams.values() for _, _, data in stream.after(0)]
    old = Repair(epochs=[], records=[known.record_bytes], heads=[known.head_bytes], frames=frames)
    fabric.unlink(0, 1)
    fabric.unlink(0, 2)
    fabric.run(FORGET_S - 10.0)
    assert b.view(a, a.tenant("alpha"))
    fabric.run(30.0)
    return fabric, a, b, c, old


def test_a_peer_that_was_silent_for_long_is_forgotten_with_all_that_it_told() -> None:
    _, a, b, c, _ = gone()
    for host in (b, c):
        assert record_of(host.gossip, a.peer_id) is None
        assert host.view(a, a.tenant("alpha")) == set()
        assert a.peer_id not in host.gossip.reader.index._bits
        assert host.gossip.origins.counters.forgotten == 1
        assert RecordForgotten(a.peer_id) in host.effects


def test_what_others_still_tell_of_it_does_not_bring_it_back() -> None:
    fabric, a, b, c, old = gone()
    for _ in range(3):
        assert fabric.give(b, c.peer_id, encode(old)) == []
        fabric.run(8.0)
    assert record_of(b.gossip, a.peer_id) is None
    assert b.view(a, a.tenant("alpha")) == set()


def test_a_host_that_still_knows_it_does_not_send_it_again_and_again() -> None:
    fabric, a, b, c, old = gone()
    c.gossip.origins.graves.close(a.peer_id)
    fabric.give(c, b.peer_id, encode(old))
    assert record_of(c.gossip, a.peer_id) is not None
    b.received.clear()
    fabric.run(60.0)
    assert not [data for data in b.received if old.records[0] in data]


def test_it_comes_back_when_it_has_a_connection_again() -> None:
    fabric, a, b, _, _ = gone()
    fabric.link(0, 1)
    fabric.run(20.0)
    assert fabric.differences() == []
    assert b.view(a, a.tenant("alpha"))
    assert len(b.gossip.origins.graves) == 0


def test_it_comes_back_through_others_when_it_has_signed_something_new() -> None:
    fabric, a, b, _, _ = gone()
    fabric.unlink(1, 2)
    fabric.link(0, 2)
    fabric.run(10.0)
    assert record_of(b.gossip, a.peer_id) is None
    fabric.link(1, 2)
    fabric.run(40.0)
    assert fabric.differences() == []
    assert b.view(a, a.tenant("alpha"))


def test_its_next_generation_is_taken_at_once() -> None:
    fabric, a, b, _, _ = gone()
    fabric.restart(a)
    a.cache(a.tenant("alpha"), 2, 9)
    fabric.link(0, 1)
    fabric.run(20.0)
    assert fabric.differences() == []
    record = record_of(b.gossip, a.peer_id)
    assert record is not None
    assert record.generation == a.generation


def test_heads_that_are_not_newer_or_not_its_own_do_not_open_a_grave() -> None:
    fabric, a, b, c, old = gone()
    mine = signed_head(c, generation=a.generation, hseq=10**6)
    forged = bytearray(signed_head(a, hseq=10**6))
    forged[-1] ^= 1
    for head in (old.heads[0], mine, bytes(forged), b"", b"\x80"):
        data = encode(Repair(epochs=[], records=list(old.records), heads=[head], frames=[]))
        fabric.give(b, c.peer_id, data)
        assert record_of(b.gossip, a.peer_id) is None


def test_an_older_head_is_refused_behind_an_open_grave() -> None:
    fabric, a, b, c, old = gone()
    new = signed_head(a, hseq=10**6)
    graves = b.gossip.origins.graves
    graves.open_for([new])
    fabric.give(b, c.peer_id, encode(old))
    assert record_of(b.gossip, a.peer_id) is not None
    assert b.gossip.origins.known[a.peer_id].head is None
    fabric.give(b, c.peer_id, encode(Repair(epochs=[], records=[], heads=[new], frames=[])))
    assert b.gossip.origins.known[a.peer_id].head_bytes == new
    assert len(graves) == 0


def test_a_connected_peer_is_not_forgotten_however_little_it_says() -> None:
    fabric = Fabric([ALPHA, ALPHA])
    fabric.link(0, 1)
    a, b = fabric.hosts
    fabric.run(10.0)
    fabric.loss = 1.0
    fabric.run(FORGET_S + 60.0)
    assert record_of(b.gossip, a.peer_id) is not None


def test_a_peer_without_a_connection_of_ours_is_known_for_as_long_as_it_signs() -> None:
    fabric = Fabric([ALPHA, ALPHA, ALPHA])
    fabric.link(0, 1)
    fabric.link(1, 2)
    a, _, c = fabric.hosts
    a.cache(a.tenant("alpha"), 1, 12)
    fabric.run(FORGET_S + 100.0)
    assert fabric.differences() == []
    assert c.view(a, a.tenant("alpha"))


def test_graves_are_bounded_and_kept_for_a_day() -> None:
    fabric = Fabric([ALPHA])
    graves = Graves(fabric.authority.trust.overlay_id)
    for number in range(GRAVES_MAX + 10):
        name = f"peer {number:04}"
        graves.dig(PeerId(name), Known(name, 1, 1, 1, 1, []), float(number))
    assert len(graves) == GRAVES_MAX
    assert graves.known_of(PeerId("peer 0009")) is None
    assert graves.known_of(PeerId("peer 0010")) is not None
    graves.expire(KEPT_S + 20.0)
    assert graves.known()[0].origin == "peer 0021"


@pytest.mark.parametrize("tenants", [ALPHA, ("alpha", "beta")])
def test_a_stream_that_its_origin_no_longer_has_is_let_go(tenants: tuple[str, ...]) -> None:
    fabric = Fabric([tenants, tenants])
    fabric.link(0, 1)
    a, b = fabric.hosts
    for tenant in a.tenants().values():
        a.cache(tenant, 1, 12)
    fabric.run(10.0)
    alpha = a.tenant("alpha")
    del a.gossip.epochs.mine[alpha.tenant_id]
    fabric.run(10.0)
    assert b.view(a, alpha) == set()
    assert len(b.gossip.origins.known[a.peer_id].streams) == len(tenants) - 1
    for tenant in a.tenants().values():
        assert b.view(a, tenant) == a.published(tenant)
