"""Joining: one ticket admits one host, with the keys that it proved, and only from the issuer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from security.authority import Authority
from security.authority_state import authority_from_bytes, authority_to_bytes
from security.enrolment import (
    ANSWER_BYTES_MAX,
    Admitted,
    JoinBody,
    make_admission,
    make_join_request,
    open_admission,
    refuse_join,
    verify_join_request,
)
from security.epoch import open_epoch
from security.errors import (
    BadSignature,
    Expired,
    IdentityMismatch,
    MalformedObject,
    NotYetValid,
    Refused,
    Revoked,
    SecurityError,
    TicketUnknown,
    TicketUsed,
    UntrustedIssuer,
    WrongOverlay,
)
from security.hosts import Admittance
from security.keys import HostKeys
from security.revocation import RevocationSet, make_revocation, open_revocation
from security.signed import Kind, sign_as_peer, verify_peer
from security.ticket import Ticket
from tests.security.world import NOTHING, NOW_S, Overlay, member, seeded


@dataclass
class Issuing:
    """An issuer that stores each new state before it answers, as the real one does."""

    authority: Authority
    secret_seed: int = 50

    def admit(
        self, request: bytes, now_s: float = NOW_S, revocations: RevocationSet = NOTHING
    ) -> Admittance:
        self.secret_seed += 1
        following, admittance = self.authority.admit(
            request, seeded(self.secret_seed), now_s, revocations
        )
        self.authority = authority_from_bytes(authority_to_bytes(following))
        return admittance


def invited(*tenants: str, seed: int = 1) -> tuple[Issuing, Ticket, HostKeys]:
    authority = member(seed).authority
    authority, ticket = authority.invite(
        tenants or ("alpha",), ["127.0.0.1:7402"], 600, seeded(seed + 100), NOW_S
    )
    return Issuing(authority), Ticket.parse(ticket.to_text()), HostKeys.generate(seeded(seed + 200))


def test_a_ticket_makes_a_host_a_member_of_its_tenants() -> None:
    issuing, ticket, keys = invited("alpha", "beta")
    admittance = issuing.admit(make_join_request(keys, ticket))
    admission = open_admission(admittance.answer, ticket, keys, NOW_S)
    assert admission.leaf.peer_id == keys.peer_id
    assert {one.name for one in admission.tenants} == {"alpha", "beta"}
    assert all(keys.peer_id in one.members for one in admission.tenants)
    assert admission.trust.overlay_id == ticket.overlay_id
    assert (admission.root, admission.epochs) == (ticket.root, admittance.grant.epochs)


def test_the_members_before_learn_of_the_new_one() -> None:
    first = member()
    issuing, ticket, keys = invited("alpha")
    admittance = issuing.admit(make_join_request(keys, ticket))
    found = open_epoch(
        admittance.grant.epochs[0], first.authority.trust, first.keys, NOW_S, NOTHING
    )
    assert found is not None
    assert found.value.supersedes(first.tenant)
    assert set(found.value.members) == {first.keys.peer_id, keys.peer_id}
    assert found.value.keys == first.tenant.keys


def test_a_ticket_grants_no_other_tenant() -> None:
    issuing, ticket, keys = invited("alpha")
    widened = replace(ticket, tenants=(*ticket.tenants, *ticket.tenants))
    admittance = issuing.admit(make_join_request(keys, widened))
    beta = issuing.authority.tenants[issuing.authority.tenant_id("beta")].epoch_object
    assert open_epoch(beta, issuing.authority.trust, keys, NOW_S, NOTHING) is None
    assert len(admittance.grant.epochs) == 1


def test_a_ticket_is_good_for_one_host() -> None:
    issuing, ticket, keys = invited()
    issuing.admit(make_join_request(keys, ticket))
    with pytest.raises(TicketUsed):
        issuing.admit(make_join_request(HostKeys.generate(seeded(7)), ticket))
    other = HostKeys.generate(seeded(8))
    resealed = replace(keys, sealing=other.sealing, sealing_public=other.sealing_public)
    with pytest.raises(TicketUsed):
        issuing.admit(make_join_request(resealed, ticket))


def test_a_host_whose_answer_was_lost_asks_again_and_no_roster_changes() -> None:
    issuing, ticket, keys = invited("alpha", "beta")
    request = make_join_request(keys, ticket)
    lost = issuing.admit(request)
    again = issuing.admit(request)
    assert again.grant.epochs == lost.grant.epochs
    admission = open_admission(again.answer, ticket, keys, NOW_S)
    assert (admission.leaf.peer_id, len(admission.tenants)) == (keys.peer_id, 2)
    with pytest.raises(Expired):
        issuing.admit(request, now_s=NOW_S + 601)
    with pytest.raises(Revoked):
        issuing.admit(request, revocations=Overlay(1).revoked(ticket.ticket_id))


def test_of_two_joiners_with_one_ticket_exactly_one_wins() -> None:
    issuing, ticket, _ = invited()
    joiners = [HostKeys.generate(seeded(300 + i)) for i in range(2)]
    requests = [make_join_request(keys, ticket) for keys in joiners]
    admitted = []
    for request in requests:
        try:
            admitted.append(issuing.admit(request))
        except TicketUsed:
            continue
    assert len(admitted) == 1
    open_admission(admitted[0].answer, ticket, joiners[0], NOW_S)
    with pytest.raises(IdentityMismatch):
        open_admission(admitted[0].answer, ticket, joiners[1], NOW_S)


def test_nothing_is_burnt_before_the_state_is_stored() -> None:
    issuing, ticket, keys = invited()
    before = authority_to_bytes(issuing.authority)
    issuing.authority.admit(make_join_request(keys, ticket), seeded(1), NOW_S, NOTHING)
    assert authority_to_bytes(issuing.authority) == before


def test_a_refused_request_burns_nothing() -> None:
    issuing, ticket, keys = invited()
    request = make_join_request(keys, ticket)
    with pytest.raises(SecurityError):
        issuing.admit(request[:-1] + bytes([request[-1] ^ 1]))
    issuing.admit(request)


def test_an_ended_ticket_is_refused() -> None:
    issuing, ticket, keys = invited()
    with pytest.raises(Expired, match="rhizome invite"):
        issuing.admit(make_join_request(keys, ticket), now_s=NOW_S + 601)


def test_a_made_up_ticket_is_unknown() -> None:
    issuing, ticket, keys = invited()
    made_up = replace(ticket, secret=bytes(32))
    with pytest.raises(TicketUnknown):
        issuing.admit(make_join_request(keys, made_up))


def test_a_revoked_ticket_or_host_is_refused() -> None:
    issuing, ticket, keys = invited()
    request = make_join_request(keys, ticket)
    for revoked in (ticket.ticket_id, keys.peer_id):
        statement = make_revocation(issuing.authority.issuer, revoked, NOW_S)
        revocations = RevocationSet.of([open_revocation(statement, issuing.authority.trust)])
        with pytest.raises(Revoked):
            issuing.admit(request, revocations=revocations)


def test_a_ticket_of_another_overlay_is_refused() -> None:
    issuing, _, keys = invited(seed=1)
    _, foreign_ticket, _ = invited(seed=2)
    with pytest.raises(WrongOverlay):
        issuing.admit(make_join_request(keys, foreign_ticket))


def test_a_ticket_of_another_issuer_is_refused() -> None:
    issuing, ticket, keys = invited()
    elsewhere = replace(ticket, issuer_id=Overlay(9).issuer.issuer_id)
    with pytest.raises(UntrustedIssuer):
        issuing.admit(make_join_request(keys, elsewhere))


def swapped(request: bytes, thief: HostKeys, overlay: Ticket, **changes: object) -> bytes:
    body = msgspec.msgpack.decode(
        verify_peer(request, Kind.JOIN, overlay.overlay_id).value, type=JoinBody
    )
    body = msgspec.structs.replace(body, **changes)
    return sign_as_peer(thief, overlay.overlay_id, Kind.JOIN, msgspec.msgpack.encode(body))


def test_another_identity_under_a_captured_proof_is_refused() -> None:
    issuing, ticket, keys = invited()
    thief = HostKeys.generate(seeded(7))
    request = make_join_request(keys, ticket)
    with pytest.raises(BadSignature, match="ticket"):
        issuing.admit(swapped(request, thief, ticket))


def test_another_sealing_key_under_a_captured_proof_is_refused() -> None:
    issuing, ticket, keys = invited()
    thief = HostKeys.generate(seeded(7))
    request = make_join_request(keys, ticket)
    with pytest.raises(BadSignature, match="ticket"):
        issuing.admit(swapped(request, keys, ticket, sealing=thief.sealing_public))


def test_a_sealing_key_that_everybody_can_open_is_refused() -> None:
    issuing, ticket, keys = invited()
    weak = replace(keys, sealing_public=bytes(32))
    with pytest.raises(MalformedObject):
        issuing.admit(make_join_request(weak, ticket))


def test_the_secret_does_not_travel_and_is_not_kept() -> None:
    issuing, ticket, keys = invited()
    stored = authority_to_bytes(issuing.authority)
    for place in (make_join_request(keys, ticket), stored):
        assert ticket.secret not in place
        assert ticket.key().private_bytes_raw() not in place


def test_an_answer_of_another_overlay_is_refused() -> None:
    issuing, _, keys = invited(seed=2)
    _, ticket, _ = invited(seed=1)
    _, foreign_ticket, _ = invited(seed=2)
    answer = issuing.admit(make_join_request(keys, foreign_ticket)).answer
    with pytest.raises(UntrustedIssuer):
        open_admission(answer, ticket, keys, NOW_S)


def test_an_answer_for_another_ticket_is_refused() -> None:
    issuing, ticket, keys = invited()
    issuing.authority, other = issuing.authority.invite(
        ["beta"], ["127.0.0.1:7402"], 600, seeded(77), NOW_S
    )
    answer = issuing.admit(make_join_request(keys, other)).answer
    with pytest.raises(IdentityMismatch):
        open_admission(answer, ticket, keys, NOW_S)


def test_an_answer_that_a_host_in_the_middle_wrote_is_refused() -> None:
    issuing, ticket, keys = invited()
    answer = issuing.admit(make_join_request(keys, ticket)).answer
    middle = HostKeys.generate(seeded(8))
    admitted = msgspec.msgpack.decode(answer, type=Admitted)
    forged = sign_as_peer(middle, ticket.overlay_id, Kind.ADMISSION, b"")
    with pytest.raises(Refused):
        open_admission(
            msgspec.msgpack.encode(msgspec.structs.replace(admitted, admission=forged)),
            ticket,
            keys,
            NOW_S,
        )


def test_epochs_that_do_not_name_us_are_refused() -> None:
    issuing, ticket, keys = invited("alpha")
    answer = issuing.admit(make_join_request(keys, ticket)).answer
    admitted = msgspec.msgpack.decode(answer, type=Admitted)
    beta = issuing.authority.tenants[issuing.authority.tenant_id("beta")].epoch_object
    swapped_epochs = msgspec.structs.replace(admitted, epochs=[beta])
    with pytest.raises(MalformedObject):
        open_admission(msgspec.msgpack.encode(swapped_epochs), ticket, keys, NOW_S)


def test_clocks_that_are_far_apart_are_said_so() -> None:
    issuing, ticket, keys = invited()
    answer = issuing.admit(make_join_request(keys, ticket)).answer
    with pytest.raises(NotYetValid, match="clock"):
        open_admission(answer, ticket, keys, NOW_S - 3600)


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (TicketUnknown(), TicketUnknown),
        (TicketUsed(), TicketUsed),
        (Expired(), Expired),
        (Revoked(), Revoked),
        (BadSignature(), Refused),
        (None, Refused),
    ],
)
def test_a_refusal_reaches_the_joiner_by_its_cause(
    error: SecurityError | None, seen: type[SecurityError]
) -> None:
    _, ticket, keys = invited()
    with pytest.raises(seen) as caught:
        open_admission(refuse_join(error), ticket, keys, NOW_S)
    assert type(caught.value) is seen
    assert str(caught.value)


def test_epochs_that_do_not_fit_are_left_to_gossip() -> None:
    authority = member().authority
    large = bytes(40_000)
    answer = make_admission(authority.issuer, "00" * 16, b"leaf", (large, large, b"small"))
    assert len(answer) <= ANSWER_BYTES_MAX
    assert msgspec.msgpack.decode(answer, type=Admitted).epochs[0] == large


@settings(max_examples=50)
@given(st.binary(max_size=300))
def test_garbage_is_refused_on_both_sides(data: bytes) -> None:
    issuing, ticket, keys = invited()
    with pytest.raises(SecurityError):
        verify_join_request(data, issuing.authority.issuer)
    with pytest.raises(SecurityError):
        open_admission(data, ticket, keys, NOW_S)
