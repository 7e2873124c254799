"""Issuers that are none, too many, over, or speak in another's name; hosts that want to be one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chaos.world import until
from overlay.errors import NotAdmitted, StreamReset
from overlay.transport.frame import ResetCode
from overlay.trust.messages import PROTOCOL, VERSION, Question, encode
from security.certificate import (
    ISSUER_LIFETIME_S,
    IssuerKey,
    RootKey,
    issue_leaf,
    make_issuer,
    parse_leaf,
)
from security.errors import BadSignature, MalformedObject, UntrustedIssuer
from security.issuer_card import make_card
from security.issuer_request import make_issuer_request, open_issuer_request
from security.keys import HostKeys
from security.renewal import (
    make_renew_request,
    make_renewal,
    open_renewal,
    verify_renew_request,
)
from security.trust import ISSUERS_MAX
from tests.attacks.adversary import KeyHolder, member_of_beta
from tests.attacks.victim import Victim
from tests.attacks.worlds import honest_overlay, simulated
from tests.security.world import NOW_S, Overlay, forged_leaf, seeded

SECRET = seeded(66)


def root_of(victim: Victim) -> RootKey:
    """The overlay's root, with which its owner signs issuers."""
    assert victim.world.authority is not None
    root = victim.world.authority.root
    assert isinstance(root, RootKey)
    return root


def another(victim: Victim) -> IssuerKey:
    """A genuine issuer, whose key is the adversary's."""
    return make_issuer(root_of(victim), SECRET, victim.now_unix_s)


def first(victim: Victim) -> IssuerKey:
    assert victim.world.authority is not None
    return victim.world.authority.issuer


async def told(
    victim: Victim, own: KeyHolder, *, issuers: list[bytes], cards: list[bytes] | None = None
) -> int | None:
    """Tells the first honest host of issuers, as a peer that is up; with what that was reset."""
    question = Question(v=VERSION, marks=b"", issuers=issuers, roots=[], cards=cards or [])
    async with own.connected(victim.honest[0]) as connection:
        try:
            await connection.call(PROTOCOL, encode(question), timeout_s=5)
        except StreamReset as error:
            return error.code
    return None


def certified_by(issuer: IssuerKey, holder: KeyHolder) -> KeyHolder:
    """The same host with a leaf by this issuer, in its dates now."""
    now_s = holder.victim.now_unix_s
    leaf = forged_leaf(issuer, holder.identity.keys, now_s=now_s)
    return KeyHolder(holder.victim, replace(holder.identity, leaf=leaf, issuer=issuer.der))


async def turned_away(victim: Victim, holder: KeyHolder) -> str | None:
    """With which word the first honest host refuses a certificate; None where it is admitted."""
    try:
        async with holder.connected(victim.honest[0]):
            await trio.sleep(1)
    except NotAdmitted as refusal:
        return refusal.reason
    return None


def known(victim: Victim) -> list[set[str]]:
    return [set(node.trust.now.issuers) for node in victim.nodes]


@simulated
async def test_an_issuer_of_a_foreign_root_told_by_a_peer_with_a_valid_key() -> None:
    async with honest_overlay() as victim:
        own, foreign = member_of_beta(victim), Overlay(9).issuer
        before = known(victim)
        async with victim.unharmed(by=own.peer_id):
            for issuers in ([foreign.der], [first(victim).der, foreign.der]):
                assert await told(victim, own, issuers=issuers) == ResetCode.PROTOCOL
        assert known(victim) == before


@simulated
async def test_control_an_issuer_that_the_root_has_signed_is_told_on() -> None:
    async with honest_overlay() as victim:
        issuer = another(victim)
        assert await told(victim, member_of_beta(victim), issuers=[issuer.der]) is None
        await until(lambda: all(issuer.issuer_id in ids for ids in known(victim)), timeout_s=5)


@simulated
async def test_more_issuers_than_are_taken() -> None:
    """All of them genuine: what is over is refused, and nobody who was known makes room."""
    async with honest_overlay() as victim:
        own, before = member_of_beta(victim), known(victim)
        made = [another(victim) for _ in range(ISSUERS_MAX + 8)]
        ders = [issuer.der for issuer in made]
        assert await told(victim, own, issuers=ders[:ISSUERS_MAX]) == ResetCode.PROTOCOL
        for der in ders[ISSUERS_MAX:]:
            assert await told(victim, own, issuers=[der]) == ResetCode.PROTOCOL
        await until(lambda: all(len(ids) == ISSUERS_MAX for ids in known(victim)), timeout_s=60)
        assert all(ids >= was for ids, was in zip(known(victim), before, strict=True))
        in_time = next(each for each in made if each.issuer_id in known(victim)[0])
        async with victim.unharmed(by=own.peer_id):
            assert await turned_away(victim, certified_by(another(victim), own)) == "LimitExceeded"
        assert await turned_away(victim, certified_by(in_time, own)) is None, "the control"


@simulated
async def test_a_leaf_of_an_issuer_whose_certificate_has_ended() -> None:
    """Its key was kept by somebody, who signs a leaf of any dates with it."""
    async with honest_overlay() as victim:
        own = member_of_beta(victim)
        begun_s = victim.now_unix_s - ISSUER_LIFETIME_S - 86_400
        ended = make_issuer(root_of(victim), SECRET, begun_s)
        async with victim.unharmed(by=own.peer_id):
            assert await turned_away(victim, certified_by(ended, own)) == "Expired"
        assert all(ended.issuer_id not in ids for ids in known(victim))
        in_force = certified_by(another(victim), own)
        assert await turned_away(victim, in_force) is None, "the control"


@simulated
async def test_an_issuers_card_by_another_issuer() -> None:
    """It would lead hosts that look for a certificate to the wrong address."""
    async with honest_overlay() as victim:
        own, thief, honest = member_of_beta(victim), another(victim), first(victim)
        victim.nodes[0].trust.tell_enrolment(honest, ["192.0.2.1:7402"])
        assert await told(victim, own, issuers=[thief.der]) is None
        trusts = [node.trust for node in victim.nodes]
        await until(lambda: all(t.enrolment_of(honest.issuer_id) for t in trusts), timeout_s=60)
        async with victim.unharmed(by=own.peer_id):
            in_its_name = replace(thief, issuer_id=honest.issuer_id)
            forged = make_card(in_its_name, ["192.0.2.66:7402"], 1 << 40)
            assert await told(victim, own, issuers=[], cards=[forged]) == ResetCode.PROTOCOL
        assert {t.enrolment_of(honest.issuer_id) for t in trusts} == {("192.0.2.1:7402",)}


@simulated
async def test_another_issuer_answers_a_renewal() -> None:
    """Who has stolen one issuer's key takes no host of another one over."""
    async with honest_overlay() as victim:
        thief, host = another(victim), victim.nodes[0]
        before = parse_leaf(host.identity.leaf)
        leaf = issue_leaf(thief, host.peer_id, SECRET, victim.now_unix_s + 60)
        answer = make_renewal(thief, leaf, ["192.0.2.66:7402"])
        with pytest.raises(UntrustedIssuer):
            open_renewal(answer, host.trust.now, before)
        # The control: once its own issuer is over, that is what brings it back.
        assert open_renewal(answer, host.trust.now, before, is_over=True).leaf.der == leaf


def test_a_sealing_key_that_another_issuers_host_has_not_signed() -> None:
    """Who names it gets the keys of all tenants that the host is put into from then on."""
    old, host, thief = Overlay(1), HostKeys.generate(seeded(67)), HostKeys.generate(seeded(68))
    new = make_issuer(old.root, SECRET, NOW_S)
    leaf = parse_leaf(old.leaf(host))
    swapped = replace(host, sealing=thief.sealing, sealing_public=thief.sealing_public)
    in_its_name = replace(swapped, identity=thief.identity)

    def asked(keys: HostKeys) -> bytes:
        return make_renew_request(keys, leaf, bytes(32), at=new.issuer_id)

    assert verify_renew_request(asked(host), new).sealing == host.sealing_public
    with pytest.raises(BadSignature):
        verify_renew_request(asked(in_its_name), new)
    with pytest.raises(BadSignature):
        verify_renew_request(asked(host).replace(host.sealing_public, thief.sealing_public), new)
    with pytest.raises(MalformedObject):  # a point that gives every sender the same secret
        verify_renew_request(asked(replace(host, sealing_public=bytes(32))), new)


@simulated
async def test_a_request_to_become_an_issuer_signed_by_another_host() -> None:
    """The root's owner would certify a key for a host that never asked."""
    async with honest_overlay() as victim:
        own, honest = member_of_beta(victim), victim.honest[0].identity
        key = Ed25519PrivateKey.from_private_bytes(SECRET(32))
        asked = make_issuer_request(own.identity.keys, honest.trust.overlay_id, key)
        assert open_issuer_request(asked, victim.overlay_id).peer_id == own.peer_id
        in_its_name = replace(own.identity.keys, peer_id=honest.peer_id)
        forged = make_issuer_request(in_its_name, honest.trust.overlay_id, key)
        with pytest.raises(BadSignature):
            open_issuer_request(forged, victim.overlay_id)
