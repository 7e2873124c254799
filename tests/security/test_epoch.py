"""EPOCH objects: members learn everything, others nothing, and only the steward is believed."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from security import epoch
from security.certificate import make_issuer
from security.epoch import (
    MEMBERS_MAX,
    MEMBERS_PADDED_MIN,
    SUITE_X25519_MLKEM768,
    EpochBody,
    EpochContent,
    make_epoch,
    open_epoch,
    read_epoch,
)
from security.errors import (
    BadSignature,
    LimitExceeded,
    MalformedObject,
    NotSteward,
    Revoked,
    SecurityError,
    UnsupportedVersion,
    UntrustedIssuer,
    WrongOverlay,
)
from security.keys import HostKeys
from security.peer_id import PeerId, public_bytes_of
from security.roster import first_content
from security.signed import Kind, sign_as_issuer, verify_issuer
from security.tenant import TenantName, tenant_id_of
from tests.security.world import NOTHING, NOW_S, Overlay, member, seeded


def content_of(overlay: Overlay, *members: HostKeys) -> EpochContent:
    nonce = overlay.secret(16)
    tenant_id = tenant_id_of(overlay.issuer.issuer_id, nonce)
    name = TenantName("acme-research")
    content = first_content(tenant_id, nonce, name, overlay.secret, public=False)
    return replace(content, members={one.peer_id: one.sealing_public for one in members})


def body_of(overlay: Overlay, data: bytes) -> EpochBody:
    return msgspec.msgpack.decode(
        verify_issuer(data, Kind.EPOCH, overlay.trust).value, type=EpochBody
    )


def signed_again(overlay: Overlay, body: EpochBody) -> bytes:
    return sign_as_issuer(overlay.issuer, Kind.EPOCH, msgspec.msgpack.encode(body))


def test_every_member_opens_the_same_tenant() -> None:
    overlay = Overlay()
    hosts = [overlay.host() for _ in range(3)]
    content = content_of(overlay, *hosts)
    data = make_epoch(overlay.issuer, content, overlay.secret)
    for keys in hosts:
        found = open_epoch(data, overlay.trust, keys, NOW_S, NOTHING)
        assert found is not None
        tenant = found.value
        assert (tenant.tenant_id, tenant.name) == (content.tenant_id, "acme-research")
        assert (tenant.epoch, tenant.version) == (1, 1)
        assert dict(tenant.members) == dict(content.members)
        assert found.data == data


def test_a_host_that_is_no_member_opens_nothing_and_still_checks_it() -> None:
    overlay = Overlay()
    content = content_of(overlay, overlay.host())
    data = make_epoch(overlay.issuer, content, overlay.secret)
    assert open_epoch(data, overlay.trust, overlay.host(), NOW_S, NOTHING) is None
    header = read_epoch(data, overlay.trust, NOW_S, NOTHING).value
    assert (header.steward, header.epoch, header.version) == (overlay.issuer.issuer_id, 1, 1)


def test_a_host_on_the_roster_under_another_sealing_key_is_no_member() -> None:
    overlay = Overlay()
    keys, thief = overlay.host(), overlay.host()
    data = make_epoch(overlay.issuer, content_of(overlay, keys), overlay.secret)
    disguised = replace(thief, sealing=keys.sealing)
    assert open_epoch(data, overlay.trust, disguised, NOW_S, NOTHING) is None


def test_nothing_of_a_tenant_stands_in_the_clear() -> None:
    overlay = Overlay()
    hosts = [overlay.host() for _ in range(3)]
    content = content_of(overlay, *hosts)
    data = make_epoch(overlay.issuer, content, overlay.secret)
    secrets = [
        content.name.encode(),
        content.tenant_id.encode(),
        bytes.fromhex(content.tenant_id),
        content.nonce,
        content.epoch_key,
        content.chain_secret,
    ]
    for keys in hosts:
        secrets += [keys.peer_id.encode(), public_bytes_of(keys.peer_id), keys.sealing_public]
    assert [secret for secret in secrets if secret in data] == []


def test_the_number_of_members_is_padded() -> None:
    overlay = Overlay()
    hosts = [overlay.host() for _ in range(9)]

    def shape(count: int) -> tuple[int, int]:
        made = make_epoch(overlay.issuer, content_of(overlay, *hosts[:count]), overlay.secret)
        body = body_of(overlay, made)
        return len(body.entries), len(body.roster)

    assert {shape(count) for count in (0, 1, 5, 8)} == {(MEMBERS_PADDED_MIN, 1024 + 16)}
    assert shape(9)[0] == 16


def test_two_objects_of_a_tenant_share_only_its_opaque_name() -> None:
    overlay = Overlay()
    keys = overlay.host()
    content = content_of(overlay, keys)
    first = body_of(overlay, make_epoch(overlay.issuer, content, overlay.secret))
    second = body_of(
        overlay, make_epoch(overlay.issuer, replace(content, version=2), overlay.secret)
    )
    other = body_of(overlay, make_epoch(overlay.issuer, content_of(overlay, keys), overlay.secret))
    assert first.object_id == second.object_id != other.object_id
    assert not set(first.entries) & set(second.entries)


def test_a_version_adds_members_and_keeps_the_keys() -> None:
    overlay = Overlay()
    first, second = overlay.host(), overlay.host()
    content = content_of(overlay, first)
    grown = replace(
        content, version=2, members={**content.members, second.peer_id: second.sealing_public}
    )
    old = open_epoch(
        make_epoch(overlay.issuer, content, overlay.secret), overlay.trust, first, NOW_S, NOTHING
    )
    new = open_epoch(
        make_epoch(overlay.issuer, grown, overlay.secret), overlay.trust, first, NOW_S, NOTHING
    )
    assert old is not None
    assert new is not None
    assert new.value.supersedes(old.value)
    assert not old.value.supersedes(new.value)
    assert new.value.keys == old.value.keys
    assert second.peer_id in new.value.members


def test_an_issuer_that_is_not_the_steward_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows every secret of the tenant, as a member does, and signs with a good key."""
    overlay = Overlay()
    keys = overlay.host()
    content = content_of(overlay, keys)
    usurper = make_issuer(overlay.root, overlay.secret, NOW_S)
    with pytest.raises(NotSteward):
        make_epoch(usurper, content, overlay.secret)
    with monkeypatch.context() as patch:
        patch.setattr(epoch, "tenant_id_of", lambda *_: content.tenant_id)
        forged = make_epoch(usurper, replace(content, version=9), overlay.secret)
    with pytest.raises(NotSteward):
        open_epoch(forged, overlay.trust.with_issuer(usurper.der), keys, NOW_S, NOTHING)


def test_a_usurpers_own_tenant_has_another_id() -> None:
    overlay = Overlay()
    keys = overlay.host()
    content = content_of(overlay, keys)
    usurper = make_issuer(overlay.root, overlay.secret, NOW_S)
    own = replace(content, tenant_id=tenant_id_of(usurper.issuer_id, content.nonce))
    data = make_epoch(usurper, own, overlay.secret)
    found = open_epoch(data, overlay.trust.with_issuer(usurper.der), keys, NOW_S, NOTHING)
    assert found is not None
    assert found.value.tenant_id != content.tenant_id


def test_foreign_and_revoked_issuers_are_refused() -> None:
    overlay, foreign = Overlay(1), Overlay(2)
    keys = overlay.host()
    data = make_epoch(foreign.issuer, content_of(foreign, keys), foreign.secret)
    with pytest.raises(WrongOverlay):
        open_epoch(data, overlay.trust, keys, NOW_S, NOTHING)
    pretending = replace(foreign.issuer, overlay_id=overlay.overlay_id)
    with pytest.raises(UntrustedIssuer):
        read_epoch(
            make_epoch(pretending, content_of(foreign, keys), foreign.secret),
            overlay.trust,
            NOW_S,
            NOTHING,
        )
    ours = make_epoch(overlay.issuer, content_of(overlay, keys), overlay.secret)
    with pytest.raises(Revoked):
        read_epoch(ours, overlay.trust, NOW_S, overlay.revoked(overlay.issuer.issuer_id))


def test_entries_and_rosters_of_other_epochs_do_not_fit() -> None:
    overlay = Overlay()
    keys = overlay.host()
    content = content_of(overlay, keys)
    old = body_of(overlay, make_epoch(overlay.issuer, content, overlay.secret))
    new = body_of(overlay, make_epoch(overlay.issuer, replace(content, epoch=2), overlay.secret))
    relabelled = msgspec.structs.replace(old, epoch=2)
    assert (
        open_epoch(signed_again(overlay, relabelled), overlay.trust, keys, NOW_S, NOTHING) is None
    )
    mixed = msgspec.structs.replace(new, roster=old.roster)
    with pytest.raises(MalformedObject):
        open_epoch(signed_again(overlay, mixed), overlay.trust, keys, NOW_S, NOTHING)


def test_an_altered_object_is_refused() -> None:
    overlay = Overlay()
    keys = overlay.host()
    data = make_epoch(overlay.issuer, content_of(overlay, keys), overlay.secret)
    for position in range(0, len(data), 37):
        altered = bytearray(data)
        altered[position] ^= 0x40
        with pytest.raises(SecurityError):
            open_epoch(bytes(altered), overlay.trust, keys, NOW_S, NOTHING)


def test_a_host_cannot_sign_a_roster() -> None:
    world = member()
    foreign_signer = replace(world.authority.issuer, private=world.keys.identity)
    content = next(iter(world.authority.tenants.values())).content
    forged = make_epoch(foreign_signer, replace(content, epoch=9), seeded(5))
    with pytest.raises(BadSignature):
        read_epoch(forged, world.authority.trust, NOW_S, NOTHING)


def test_a_roster_is_bounded() -> None:
    overlay = Overlay()
    members = {PeerId(str(i)): bytes(32) for i in range(MEMBERS_MAX + 1)}
    with pytest.raises(LimitExceeded):
        make_epoch(overlay.issuer, replace(content_of(overlay), members=members), overlay.secret)


def test_a_suite_of_a_later_version_is_told_from_a_broken_object() -> None:
    """Its entries have another size: the suite is looked at before them."""
    overlay = Overlay()
    keys = overlay.host()
    data = make_epoch(overlay.issuer, content_of(overlay, keys), overlay.secret)
    later = {
        **msgspec.to_builtins(body_of(overlay, data), builtin_types=(bytes,)),
        "suite": SUITE_X25519_MLKEM768,
        "entries": [bytes(1200)],
        "more": 1,
    }
    for read in (
        lambda one: read_epoch(one, overlay.trust, NOW_S, NOTHING),
        lambda one: open_epoch(one, overlay.trust, keys, NOW_S, NOTHING),
    ):
        signed = sign_as_issuer(overlay.issuer, Kind.EPOCH, msgspec.msgpack.encode(later))
        with pytest.raises(UnsupportedVersion, match="suite 2"):
            read(signed)
        named = {**later, "suite": 1, "entries": body_of(overlay, data).entries}
        del named["more"]
        assert read(sign_as_issuer(overlay.issuer, Kind.EPOCH, msgspec.msgpack.encode(named)))


@settings(max_examples=50)
@given(st.binary(max_size=200))
def test_a_signed_object_of_garbage_is_refused(body: bytes) -> None:
    overlay = Overlay()
    with pytest.raises(SecurityError):
        read_epoch(sign_as_issuer(overlay.issuer, Kind.EPOCH, body), overlay.trust, NOW_S, NOTHING)
