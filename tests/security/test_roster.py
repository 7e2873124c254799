"""Rosters that change: who goes loses the next key, who comes gets no key of the past."""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec
import pytest

from security.authority import Authority
from security.authority_state import AuthorityState, authority_from_bytes, authority_to_bytes
from security.enrolment import make_join_request
from security.epoch import (
    EPOCH_NUMBER_MAX,
    EpochHeader,
    TenantEpoch,
    object_id_of,
    open_epoch,
    read_epoch,
)
from security.errors import (
    LimitExceeded,
    MalformedObject,
    NotAMember,
    TicketUsed,
    UnknownHost,
    UnknownTenant,
)
from security.keys import HostKeys
from security.roster import is_behind, rotated, with_member, without_member
from security.tenant import TenantId
from tests.security.world import NOTHING, NOW_S, seeded


@dataclass
class Kept:
    """Tenant ``alpha`` as its steward keeps it, and hosts that were enrolled."""

    authority: Authority
    tenant_id: TenantId
    hosts: tuple[HostKeys, ...]
    first: bytes

    def opened(self, data: bytes, keys: HostKeys) -> TenantEpoch | None:
        found = open_epoch(data, self.authority.trust, keys, NOW_S, NOTHING)
        return None if found is None else found.value

    def must_open(self, data: bytes, keys: HostKeys) -> TenantEpoch:
        found = self.opened(data, keys)
        assert found is not None
        return found


def kept(members: int = 3, *, more: int = 1, public: bool = False) -> Kept:
    secret = seeded(1)
    authority = Authority.create(secret, NOW_S, [])
    authority, tenant_id = authority.create_tenant("alpha", secret, public=public)
    hosts = []
    for number in range(members + more):
        keys = HostKeys.generate(secret)
        tenants = [tenant_id] if number < members else []
        authority, _ = authority.enrol(keys.peer_id, keys.sealing_public, tenants, secret, NOW_S)
        hosts.append(keys)
    first = authority.tenants[tenant_id].epoch_object
    return Kept(authority, tenant_id, tuple(hosts), first)


def test_who_is_removed_opens_nothing_more_and_the_others_have_another_epoch_key() -> None:
    world = kept()
    stays, goes = world.hosts[0], world.hosts[1]
    before = world.must_open(world.first, goes)
    authority, data = world.authority.remove_member(world.tenant_id, goes.peer_id, seeded(9))
    assert authority.tenants[world.tenant_id].epoch_object == data
    assert world.opened(data, goes) is None
    after = world.must_open(data, stays)
    assert (after.epoch, after.version) == (before.epoch + 1, 1)
    assert set(after.members) == {stays.peer_id, world.hosts[2].peer_id}
    assert after.supersedes(before)
    for changed in ("tag_key", "_epoch_key", "_stream_key"):
        assert getattr(after.keys, changed) != getattr(before.keys, changed)
    for stayed in ("chain_key", "salt"):
        assert getattr(after.keys, stayed) == getattr(before.keys, stayed)


def test_a_soft_rotation_keeps_what_is_cached_and_a_hard_one_does_not() -> None:
    world = kept()
    keys = world.hosts[0]
    before = world.must_open(world.first, keys)
    authority, soft = world.authority.rotate(world.tenant_id, seeded(9))
    _, hard = authority.rotate(world.tenant_id, seeded(10), hard=True)
    second, third = world.must_open(soft, keys), world.must_open(hard, keys)
    assert [one.epoch for one in (before, second, third)] == [1, 2, 3]
    assert set(before.members) == set(second.members) == set(third.members)
    assert second.keys.chain_key == before.keys.chain_key != third.keys.chain_key
    assert second.keys.salt == before.keys.salt != third.keys.salt
    assert len({one.keys.tag_key for one in (before, second, third)}) == 3


def test_a_hard_rotation_takes_the_older_objects_place_and_looks_like_a_soft_one() -> None:
    """A relay keeps one object for each steward and object id."""
    world = kept()
    _, soft = world.authority.rotate(world.tenant_id, seeded(9))
    _, hard = world.authority.rotate(world.tenant_id, seeded(9), hard=True)
    headers = [
        read_epoch(data, world.authority.trust, NOW_S, NOTHING).value
        for data in (world.first, soft, hard)
    ]
    assert len({(header.steward, header.object_id) for header in headers}) == 1
    assert all(header.supersedes(headers[0]) for header in headers[1:])
    assert headers[1] == headers[2]
    assert len(soft) == len(hard)


def test_the_object_id_survives_a_hard_rotation_on_disk() -> None:
    world = kept()
    authority, data = world.authority.rotate(world.tenant_id, seeded(9), hard=True)
    again = authority_from_bytes(authority_to_bytes(authority))
    _, next_data = again.rotate(world.tenant_id, seeded(10))
    ids = [
        read_epoch(one, world.authority.trust, NOW_S, NOTHING).value.object_id
        for one in (world.first, data, next_data)
    ]
    assert len(set(ids)) == 1


def test_who_comes_later_cannot_read_the_epoch_before() -> None:
    world = kept()
    newcomer = world.hosts[3]
    authority, bumped = world.authority.rotate(world.tenant_id, seeded(8))
    sealing = authority.host(newcomer.peer_id).need_sealing()
    _, data = authority.add_member(world.tenant_id, newcomer.peer_id, sealing, seeded(9))
    here, member = world.must_open(data, newcomer), world.must_open(bumped, world.hosts[0])
    assert here.keys == member.keys
    assert (here.epoch, here.version) == (2, 2)
    assert world.opened(world.first, newcomer) is None
    assert world.opened(bumped, newcomer) is None


def test_who_comes_back_gets_the_new_key_alone() -> None:
    world = kept()
    host = world.hosts[1]
    authority, without = world.authority.remove_member(world.tenant_id, host.peer_id, seeded(8))
    sealing = authority.host(host.peer_id).need_sealing()
    _, again = authority.add_member(world.tenant_id, host.peer_id, sealing, seeded(9))
    assert world.opened(without, host) is None
    assert world.must_open(again, host).epoch == 2


def test_the_last_member_can_be_removed() -> None:
    world = kept(members=1)
    authority, data = world.authority.remove_member(
        world.tenant_id, world.hosts[0].peer_id, seeded(9)
    )
    assert not authority.tenants[world.tenant_id].content.members
    assert all(world.opened(data, keys) is None for keys in world.hosts)


def test_who_is_no_member_cannot_be_removed_and_who_is_no_host_cannot_be_added() -> None:
    world = kept()
    outsider, stranger = world.hosts[3], HostKeys.generate(seeded(77))
    with pytest.raises(NotAMember):
        world.authority.remove_member(world.tenant_id, outsider.peer_id, seeded(9))
    with pytest.raises(UnknownHost):
        world.authority.host(stranger.peer_id)
    with pytest.raises(UnknownTenant):
        world.authority.rotate(TenantId("0" * 32), seeded(9))
    with pytest.raises(UnknownTenant):
        world.authority.remove_member(TenantId("0" * 32), outsider.peer_id, seeded(9))


def test_a_ticket_that_was_used_does_not_bring_a_removed_host_back() -> None:
    world = kept()
    keys = HostKeys.generate(seeded(5))
    authority, ticket = world.authority.invite(["alpha"], ["192.0.2.1:1"], 60, seeded(6), NOW_S)
    request = make_join_request(keys, ticket)
    authority, admittance = authority.admit(request, seeded(7), NOW_S, NOTHING)
    assert world.opened(admittance.grant.epochs[0], keys) is not None
    authority, _ = authority.remove_member(world.tenant_id, keys.peer_id, seeded(8))
    with pytest.raises(TicketUsed):
        authority.admit(request, seeded(9), NOW_S, NOTHING)


def test_every_host_is_on_a_public_tenants_roster_and_members_are_told_that_it_is_one() -> None:
    world = kept(members=0, more=2, public=True)
    secret = seeded(11)
    late = HostKeys.generate(secret)
    authority, grant = world.authority.enrol(late.peer_id, late.sealing_public, [], secret, NOW_S)
    everybody = (*world.hosts, late)
    (data,) = grant.epochs
    opened = [world.must_open(data, keys) for keys in everybody]
    assert all(tenant.public for tenant in opened)
    assert set(opened[0].members) == {keys.peer_id for keys in everybody}
    authority, second = authority.create_tenant("also", secret, public=True)
    assert set(authority.tenants[second].content.members) == {keys.peer_id for keys in everybody}
    again = authority_from_bytes(authority_to_bytes(authority))
    assert (again.tenants, again.hosts) == (authority.tenants, authority.hosts)


def test_other_tenants_are_not_public() -> None:
    world = kept()
    assert not world.must_open(world.first, world.hosts[0]).public
    assert b"public" not in world.first


def test_a_state_from_before_hosts_and_rotations_still_opens() -> None:
    """Such a state has neither field: hosts are those of the rosters, object ids follow."""
    world = kept()
    state = msgspec.msgpack.decode(authority_to_bytes(world.authority))
    del state["hosts"]
    for tenant in state["tenants"]:
        del tenant["object_id"], tenant["public"]
    old = authority_from_bytes(msgspec.msgpack.encode(state))
    members = {keys.peer_id: keys.sealing_public for keys in world.hosts[:3]}
    assert {id_: host.sealing_public for id_, host in old.hosts.items()} == members
    content = old.tenants[world.tenant_id].content
    assert content == world.authority.tenants[world.tenant_id].content
    assert content.object_id == object_id_of(content.chain_secret, world.tenant_id)


def test_a_damaged_host_in_a_state_is_refused() -> None:
    world = kept()
    state = msgspec.msgpack.decode(authority_to_bytes(world.authority), type=AuthorityState)
    row = msgspec.structs.replace(state.hosts[0], peer_id="nobody")
    damaged = msgspec.structs.replace(state, hosts=[row])
    with pytest.raises(MalformedObject):
        authority_from_bytes(msgspec.msgpack.encode(damaged))


def test_numbers_that_are_used_up_are_told() -> None:
    content = kept().authority.tenants[kept().tenant_id].content
    (peer_id, *_), sealing = content.members, bytes(range(32))
    with pytest.raises(LimitExceeded):
        rotated(replace(content, epoch=EPOCH_NUMBER_MAX), seeded(1), hard=False)
    with pytest.raises(LimitExceeded):
        without_member(replace(content, epoch=EPOCH_NUMBER_MAX), peer_id, seeded(1))
    with pytest.raises(LimitExceeded):
        with_member(replace(content, version=EPOCH_NUMBER_MAX), peer_id, sealing)


# -- a steward that was restored from an older copy


def behind(authority: Authority, header: EpochHeader, data: bytes) -> bool:
    return is_behind(authority.tenants.values(), authority.issuer.issuer_id, header, data)


def changed_since(world: Kept, *, hard: bool) -> tuple[Authority, TenantEpoch, bytes]:
    """The state goes on without the copy: a host comes, one goes, perhaps a hard rotation."""
    authority = world.authority
    newcomer, goes = world.hosts[3], world.hosts[1]
    sealing = authority.host(newcomer.peer_id).need_sealing()
    authority, _ = authority.add_member(world.tenant_id, newcomer.peer_id, sealing, seeded(21))
    authority, data = authority.remove_member(world.tenant_id, goes.peer_id, seeded(22))
    if hard:
        authority, data = authority.rotate(world.tenant_id, seeded(23), hard=True)
    return authority, world.must_open(data, world.hosts[0]), data


@pytest.mark.parametrize("hard", [False, True])
def test_an_old_copy_goes_on_from_the_newer_roster_and_reuses_no_key(hard: bool) -> None:
    world = kept()
    _, known, newest = changed_since(world, hard=hard)
    old = world.authority
    assert behind(old, known.header, newest)
    caught, data = old.catch_up(known, seeded(30))
    assert not behind(caught, known.header, newest)
    now = world.must_open(data, world.hosts[0])
    assert now.supersedes(known)
    assert set(now.members) == set(known.members)
    assert world.opened(data, world.hosts[1]) is None, "who was removed since stays out"
    assert now.keys.tag_key not in (
        known.keys.tag_key,
        world.must_open(world.first, world.hosts[0]).keys.tag_key,
    )
    old_chain = world.must_open(world.first, world.hosts[0]).keys.chain_key
    assert (now.keys.chain_key == old_chain) is not hard, "a chain key that was given up stays so"
    # The next change is one that every member takes.
    _, removed = caught.remove_member(world.tenant_id, world.hosts[2].peer_id, seeded(31))
    assert world.must_open(removed, world.hosts[0]).supersedes(now)


def test_where_only_members_came_since_the_epoch_goes_on() -> None:
    world = kept()
    newcomer = world.hosts[3]
    sealing = world.authority.host(newcomer.peer_id).need_sealing()
    _, data = world.authority.add_member(world.tenant_id, newcomer.peer_id, sealing, seeded(21))
    known = world.must_open(data, world.hosts[0])
    _, again = world.authority.catch_up(known, seeded(30))
    now = world.must_open(again, newcomer)
    assert (now.epoch, now.version) == (known.epoch, known.version + 1)
    assert now.keys == known.keys


def test_a_state_is_behind_its_own_objects_alone() -> None:
    world, other = kept(), kept(members=1)
    newer, known, data = changed_since(world, hard=False)
    assert behind(world.authority, known.header, data)
    assert not behind(newer, known.header, data)
    assert not behind(newer, world.must_open(world.first, world.hosts[0]).header, world.first)
    foreign = replace(known.header, steward=type(known.header.steward)("0" * 32))
    assert not behind(world.authority, foreign, data)
    elsewhere = replace(known.header, object_id=bytes(16))
    assert not behind(other.authority, elsewhere, data)


@pytest.mark.parametrize("hard", [False, True])
def test_a_state_is_behind_an_object_of_the_same_number_that_is_not_its_own(hard: bool) -> None:
    """Two copies of one state have signed one number each: all take what comes after both."""
    world = kept()
    ours, data = world.authority.rotate(world.tenant_id, seeded(40), hard=hard)
    _, theirs = world.authority.rotate(world.tenant_id, seeded(41), hard=hard)
    mine, known = (world.must_open(each, world.hosts[0]) for each in (data, theirs))
    assert mine.header == known.header
    assert behind(ours, known.header, theirs)
    assert not behind(ours, mine.header, data)
    caught, again = ours.catch_up(known, seeded(42))
    assert not behind(caught, known.header, theirs)
    now = world.must_open(again, world.hosts[0])
    assert now.supersedes(mine)
    assert now.supersedes(known)
    assert now.keys.tag_key not in (mine.keys.tag_key, known.keys.tag_key)
