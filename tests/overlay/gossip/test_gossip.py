"""Several gossip cores together: whatever the links do, everybody's picture becomes right."""

from __future__ import annotations

from dataclasses import replace

import pytest

from overlay.gossip.effects import EpochLost, NewGeneration, Persist, Send
from overlay.gossip.gossip import EPOCHS, FLOORS
from overlay.gossip.messages import Repair, decode_message
from security.epoch import make_epoch
from security.tags import tags_of
from tests.overlay.gossip.fabric import SECRET_NAME, Fabric, Host, chain, record_of

ALPHA = ("alpha",)
BOTH = ("alpha", "beta")


def write(fabric: Fabric, rounds: int) -> None:
    """Random changes in random caches while time passes."""
    for _ in range(rounds):
        host = fabric.rng.choice(fabric.hosts)
        tenants = sorted(host.tenants().values(), key=lambda epoch: epoch.tenant_id)
        if tenants:
            tenant = fabric.rng.choice(tenants)
            host.cache(tenant, fabric.rng.randrange(9), fabric.rng.randrange(20))
        fabric.run(fabric.rng.choice([0.0, 0.5, 2.0]))


def settle(fabric: Fabric, seconds: float = 60.0) -> None:
    fabric.run(seconds)
    assert fabric.differences() == []
    assert all(host.errors == 0 for host in fabric.hosts)


@pytest.mark.parametrize("seed", range(6))
def test_pictures_become_equal_when_writes_stop_whatever_is_lost_doubled_or_late(seed: int) -> None:
    fabric = Fabric([BOTH, ALPHA, BOTH, ("beta",)], seed=seed, loss=0.3, double=0.3, delay_s=3.0)
    fabric.link(0, 1, 2, 3)
    write(fabric, 60)
    fabric.loss = 0.1
    settle(fabric, 120.0)


@pytest.mark.parametrize("seed", range(3))
def test_pictures_become_equal_along_a_line_of_hosts(seed: int) -> None:
    fabric = Fabric([ALPHA] * 5, seed=seed, loss=0.1, delay_s=1.0)
    for number in range(4):
        fabric.link(number, number + 1)
    write(fabric, 40)
    settle(fabric, 150.0)


@pytest.mark.parametrize("seed", range(3))
def test_pictures_become_equal_after_restarts_with_new_generations(seed: int) -> None:
    fabric = Fabric([ALPHA, BOTH, BOTH], seed=seed, loss=0.1, delay_s=1.0)
    fabric.link(0, 1, 2)
    for _ in range(3):
        write(fabric, 15)
        fabric.restart(fabric.rng.choice(fabric.hosts))
    write(fabric, 10)
    settle(fabric, 90.0)


def test_a_restarted_origin_counts_with_what_it_holds_now_only() -> None:
    fabric = Fabric([ALPHA, ALPHA])
    fabric.link(0, 1)
    a, b = fabric.hosts
    a.cache(a.tenant("alpha"), 1, 12)
    settle(fabric, 10.0)
    assert b.view(a, b.tenant("alpha"))
    fabric.restart(a)
    settle(fabric, 10.0)
    assert b.view(a, b.tenant("alpha")) == set()
    assert b.gossip.lookup(b.tenant("alpha"), chain(1, 12)) == {}


def test_a_late_joiner_learns_everything() -> None:
    fabric = Fabric([ALPHA, ALPHA, ALPHA], seed=3)
    fabric.link(0, 1)
    write(fabric, 60)
    fabric.run(20.0)
    fabric.link(1, 2)
    settle(fabric, 30.0)
    late, first = fabric.hosts[2], fabric.hosts[0]
    assert record_of(late.gossip, first.peer_id) is not None
    assert late.gossip.load_of(first.peer_id) is not None


def test_a_gap_clears_nothing_and_is_repaired() -> None:
    fabric = Fabric([ALPHA, ALPHA])
    fabric.link(0, 1)
    a, b = fabric.hosts
    alpha = a.tenant("alpha")
    a.cache(alpha, 0, 12)
    settle(fabric, 10.0)
    before = set(b.view(a, alpha))
    fabric.loss = 1.0
    a.cache(alpha, 3, 12)
    fabric.run(2.5)
    fabric.loss = 0.0
    assert b.view(a, alpha) == before
    a.cache(alpha, 6, 12)
    settle(fabric, 10.0)
    assert before < b.view(a, alpha)


def test_what_members_say_is_found_by_prompt() -> None:
    fabric = Fabric([ALPHA] * 3)
    fabric.link(0, 1, 2)
    a, b, c = fabric.hosts
    alpha = a.tenant("alpha")
    a.cache(alpha, 1, 12)
    b.cache(alpha, 1, 6)
    settle(fabric, 10.0)
    assert c.gossip.lookup(alpha, chain(1, 20)) == {a.peer_id: 12, b.peer_id: 6}
    assert a.gossip.match_here(alpha, chain(1, 20)) == 12
    assert c.gossip.match_here(alpha, chain(1, 20)) == 0


# -- relay


def relay_of_a_stranger() -> tuple[Fabric, Host, Host, Host]:
    """A - X - B: A and B belong to a tenant of which X is no member."""
    fabric = Fabric([(SECRET_NAME,), ("other",), (SECRET_NAME,)])
    a, x, b = fabric.hosts
    fabric.link(0, 1)
    fabric.link(1, 2)
    return fabric, a, x, b


def test_two_members_reach_each_other_through_a_host_that_is_none() -> None:
    fabric, a, x, b = relay_of_a_stranger()
    tenant = a.tenant(SECRET_NAME)
    for document in range(12):
        a.cache(tenant, document, 10)
        fabric.run(2.0)
    settle(fabric, 30.0)
    assert b.gossip.lookup(tenant, chain(2, 10)) == {a.peer_id: 10}
    assert record_of(b.gossip, a.peer_id) is not None
    assert x.gossip.reader.tags_known(a.peer_id) == 0
    assert len(x.gossip.reader.index) == 0
    a.cache(tenant, 5, 4)
    settle(fabric, 30.0)


def test_a_relay_can_tell_nothing_of_the_tenant_from_what_it_gets_stores_and_logs() -> None:
    fabric, a, x, b = relay_of_a_stranger()
    tenant = a.tenant(SECRET_NAME)
    for host in (a, b):
        for document in range(6):
            host.cache(tenant, document, 16)
            fabric.run(2.0)
    fabric.restart(b)
    settle(fabric, 30.0)
    hashes = [name for document in range(6) for name in chain(document, 16)]
    tags = [tag.to_bytes(6, "big") for tag in tags_of(tenant.keys.tag_key, hashes)]
    ids = [tenant.tenant_id.encode(), bytes.fromhex(tenant.tenant_id)]
    keys = [tenant.keys.chain_key, tenant.keys.salt, tenant.keys.tag_key]
    markers = [SECRET_NAME.encode(), *ids, *keys, *hashes, *tags]
    stored = [
        part
        for effect in x.effects
        if isinstance(effect, Persist)
        for key, value in effect.rows.items()
        for part in (effect.table.encode(), key, value or b"")
    ]
    told = [repr(effect).encode() for effect in x.effects if not isinstance(effect, Send)]
    log_like = [repr(x.gossip.origins).encode(), repr(x.gossip.reader).encode()]
    seen = b"\0".join([*x.received, *stored, *told, *log_like])
    assert len(seen) > 10_000
    assert b"10.0.0.0:7401" in seen, "the search itself works: records are in clear"
    assert [marker for marker in markers if marker in seen] == []
    assert tenant.tenant_id not in x.tenants()


def test_the_members_of_a_tenant_are_not_told_to_a_relay() -> None:
    fabric, a, x, b = relay_of_a_stranger()
    settle(fabric, 20.0)
    carried = [effect for effect in x.effects if isinstance(effect, Persist)]
    assert {effect.table for effect in carried} == {EPOCHS}
    for row in x.rows[EPOCHS].values():
        for member in (a, b):
            assert member.peer_id.encode() not in row


# -- this host's own name


def test_a_host_that_has_lost_its_disk_learns_of_its_later_generation_and_goes_above_it() -> None:
    fabric = Fabric([ALPHA, ALPHA])
    a, b = fabric.hosts
    fabric.link(0, 1)
    a.cache(a.tenant("alpha"), 1, 12)
    settle(fabric, 10.0)
    a.rows.clear()
    fabric.restart(a, generation=50)
    settle(fabric, 10.0)
    fabric.restart(a, generation=7)
    a.cache(a.tenant("alpha"), 2, 9)
    settle(fabric, 30.0)
    met = [effect.above for effect in a.effects if isinstance(effect, NewGeneration)]
    assert met == [50]
    record = record_of(b.gossip, a.peer_id)
    assert record is not None
    assert record.generation == 51


def test_two_processes_of_one_identity_move_each_other_up() -> None:
    fabric = Fabric([ALPHA, ALPHA])
    a, _ = fabric.hosts
    own, salt = a.gossip.publisher.record(), a.boot_salt
    fabric.boot(a, generation=1)
    repair = Repair(epochs=[], records=[own], heads=[], frames=[])
    effects = a.gossip._take_records(repair.records, fabric.unix_s)
    assert effects == [NewGeneration(above=1, boot_salt=salt)]
    assert a.gossip._take_records([a.gossip.publisher.record()], fabric.unix_s) == []


# -- floors


def test_what_was_reached_once_is_stored_and_nothing_older_is_believed_after_a_restart() -> None:
    fabric = Fabric([ALPHA, ALPHA, ALPHA])
    a, b, _ = fabric.hosts
    alpha = a.tenant("alpha")
    fabric.link(0, 1)
    a.cache(alpha, 0, 8)
    fabric.run(6.0)
    fabric.link(0, 2)
    fabric.run(6.0)
    fabric.unlink(0, 2)
    a.cache(alpha, 3, 8)
    settle_pair(fabric, a, b)
    assert b.rows[FLOORS]
    fabric.unlink(0, 1)
    fabric.restart(b)
    # Only the host that has stayed behind tells of A now.
    fabric.link(1, 2)
    fabric.run(20.0)
    assert record_of(b.gossip, a.peer_id) is not None
    assert b.view(a, alpha) == set()
    fabric.link(0, 1)
    settle_pair(fabric, a, b)
    assert b.view(a, alpha)


def test_an_earlier_generation_is_not_believed_after_a_restart() -> None:
    fabric = Fabric([ALPHA, ALPHA, ALPHA])
    a, b, _ = fabric.hosts
    alpha = a.tenant("alpha")
    fabric.link(0, 2)
    a.cache(alpha, 0, 8)
    fabric.run(6.0)
    fabric.unlink(0, 2)
    fabric.restart(a)
    fabric.link(0, 1)
    a.cache(alpha, 3, 8)
    settle_pair(fabric, a, b)
    fabric.unlink(0, 1)
    fabric.restart(b)
    fabric.link(1, 2)
    fabric.run(20.0)
    assert record_of(b.gossip, a.peer_id) is None
    assert b.view(a, alpha) == set()


def settle_pair(fabric: Fabric, a: Host, b: Host) -> None:
    fabric.run(15.0)
    alpha = a.tenant("alpha")
    assert b.view(a, alpha) == a.published(alpha)


# -- rosters that change


def rotate(fabric: Fabric, members: list[Host]) -> bytes:
    """The EPOCH object of the next epoch of alpha, with new keys and these members."""
    authority = fabric.authority
    content = authority.tenants[authority.tenant_id("alpha")].content
    following = replace(
        content,
        epoch=content.epoch + 1,
        version=1,
        epoch_key=bytes(range(32)),
        members={host.peer_id: host.identity.keys.sealing_public for host in members},
    )
    return make_epoch(authority.issuer, following, fabric.rng.randbytes)


def test_a_new_epoch_comes_through_gossip_and_who_left_the_roster_is_out() -> None:
    fabric = Fabric([ALPHA, ALPHA, ALPHA])
    fabric.link(0, 1)
    fabric.link(1, 2)
    a, b, c = fabric.hosts
    alpha = a.tenant("alpha")
    for document in range(5):
        a.cache(alpha, document, 9)
        c.cache(alpha, document, 9)
        fabric.run(2.0)
    settle(fabric, 20.0)
    fabric.learn(a, rotate(fabric, [a, b]))
    settle(fabric, 30.0)
    assert c.tenants() == {}
    assert EpochLost(alpha.tenant_id) in c.effects
    assert not [e for host in (a, b) for e in host.effects if isinstance(e, EpochLost)]
    assert len(c.gossip.reader.index) == 0
    assert b.view(c, b.tenant("alpha")) == set()
    assert b.gossip.lookup(b.tenant("alpha"), chain(2, 9)) == {a.peer_id: 9}


def test_the_floor_of_one_epoch_does_not_hide_the_stream_of_the_next() -> None:
    fabric = Fabric([ALPHA, ALPHA])
    fabric.link(0, 1)
    a, b = fabric.hosts
    for document in range(8):
        a.cache(a.tenant("alpha"), document, 9)
        fabric.run(2.0)
    settle(fabric, 10.0)
    for host in (a, b):
        fabric.learn(host, rotate(fabric, [a, b]))
    settle(fabric, 20.0)
    assert b.tenant("alpha").epoch == 2
    assert b.view(a, b.tenant("alpha"))


def test_a_host_that_joins_the_roster_later_reads_what_it_has_carried() -> None:
    fabric = Fabric([ALPHA, ("other",)])
    fabric.link(0, 1)
    a, x = fabric.hosts
    a.cache(a.tenant("alpha"), 1, 9)
    settle(fabric, 10.0)
    alpha = a.tenant("alpha").tenant_id
    _, epoch = fabric.authority.add_member(
        alpha, x.peer_id, x.identity.keys.sealing_public, fabric.rng.randbytes
    )
    fabric.learn(x, epoch)
    assert x.view(a, x.tenant("alpha")) == a.published(a.tenant("alpha"))


# -- what is told


def test_every_connected_peer_gets_the_same_padded_bundle() -> None:
    fabric = Fabric([ALPHA] * 3)
    fabric.link(0, 1, 2)
    a = fabric.hosts[0]
    a.cache(a.tenant("alpha"), 1, 9)
    effects = a.gossip.on_timer(2.0, fabric.unix_s)
    sent = [effect for effect in effects if isinstance(effect, Send)]
    assert sorted(effect.peer_id for effect in sent) == sorted(
        host.peer_id for host in fabric.hosts[1:]
    )
    assert len({effect.data for effect in sent}) == 1


def test_sizes_of_bundles_are_powers_of_two() -> None:
    fabric = Fabric([BOTH] * 3, seed=9)
    fabric.link(0, 1, 2)
    write(fabric, 60)
    sizes = set()
    for host in fabric.hosts:
        for data in host.received:
            if type(decode_message(data)).__name__ == "Bundle":
                sizes.add(len(data))
    assert len(sizes) > 1
    assert all(size >= 512 and size & (size - 1) == 0 for size in sizes)


def test_a_change_of_the_record_reaches_the_others_with_the_next_bundle() -> None:
    fabric = Fabric([ALPHA] * 3)
    fabric.link(0, 1)
    settle(fabric, 6.0)
    a, b, _ = fabric.hosts
    a.gossip.describe(addresses=["10.0.0.9:7401"], zone="east", models=["m2"])
    # A connection that is made in between takes the news, and does not take it away.
    fabric.link(0, 2)
    effects = a.gossip.on_timer(fabric.now_s + 2.0, fabric.unix_s)
    for effect in effects:
        if isinstance(effect, Send) and effect.peer_id == b.peer_id:
            b.gossip.on_message(a.peer_id, effect.data, fabric.now_s, fabric.unix_s)
    record = record_of(b.gossip, a.peer_id)
    assert record is not None
    assert record.zone == "east"


def test_the_same_seed_gives_the_same_messages_sizes() -> None:
    def sizes() -> list[int]:
        fabric = Fabric([ALPHA] * 3, seed=11, loss=0.2)
        fabric.link(0, 1, 2)
        write(fabric, 20)
        return [len(data) for host in fabric.hosts for data in host.received]

    assert sizes() == sizes()
