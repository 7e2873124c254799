"""Two issuers under one root: tickets, roles, rosters and renewals stay each one's own."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from chaos.entropy import SeededEntropy
from chaos.founding import another_issuer
from security.authority import Authority
from security.authority_state import authority_from_bytes, authority_to_bytes
from security.enrolment import make_join_request, open_admission
from security.errors import (
    HostUnknown,
    MalformedObject,
    TicketUnknown,
    TicketUsed,
    UnknownHost,
    UntrustedIssuer,
)
from security.hosts import HostRole, with_adopted
from security.keys import HostKeys
from security.ticket import Ticket
from tests.security.world import NOTHING, NOW_S, seeded

SECRET = seeded(1)


def issuers() -> tuple[Authority, Authority]:
    first = Authority.create(SECRET, NOW_S, ["lab"])
    second = another_issuer(first, entropy=SeededEntropy(1, "second"), now_unix_s=NOW_S)
    second, _ = second.create_tenant("lab", SECRET)
    return first, second


def invited(authority: Authority, role: HostRole = HostRole.PEER) -> tuple[Authority, Ticket]:
    return authority.invite(["lab"], ["192.0.2.1:7402"], 600, SECRET, NOW_S, role=role)


def test_a_ticket_is_redeemed_by_the_issuer_that_it_names_and_by_no_other() -> None:
    first, second = issuers()
    first, ticket = invited(first)
    keys = HostKeys.generate(SECRET)
    request = make_join_request(keys, ticket)
    with pytest.raises(UntrustedIssuer):
        second.admit(request, SECRET, NOW_S, NOTHING)
    _, admitted = first.admit(request, SECRET, NOW_S, NOTHING)
    admission = open_admission(admitted.answer, ticket, keys, NOW_S)
    assert admission.leaf.issuer_id == first.issuer.issuer_id
    stolen = replace(ticket, issuer_id=second.issuer.issuer_id)
    with pytest.raises(UntrustedIssuer):  # an answer of the other one, as a man in the middle gives
        open_admission(admitted.answer, stolen, keys, NOW_S)


def test_of_one_ticket_at_two_issuers_at_once_exactly_one_wins() -> None:
    first, second = issuers()
    first, ticket = invited(first)
    won = 0
    for keys in (HostKeys.generate(SECRET) for _ in range(3)):
        for named in (ticket, replace(ticket, issuer_id=second.issuer.issuer_id)):
            request = make_join_request(keys, named)
            for desk in (first, second):
                try:
                    after, _ = desk.admit(request, SECRET, NOW_S, NOTHING)
                except (UntrustedIssuer, TicketUsed, TicketUnknown):
                    continue
                assert desk is first
                first, won = after, won + 1
    assert won == 1


def test_two_tenants_of_one_name_are_two() -> None:
    first, second = issuers()
    assert first.tenant_id("lab") != second.tenant_id("lab")


def test_a_certificate_is_renewed_by_an_issuer_that_has_the_host_in_its_table() -> None:
    first, second = issuers()
    keys = HostKeys.generate(SECRET)
    first, _ = first.enrol(keys.peer_id, keys.sealing_public, (), SECRET, NOW_S)
    assert first.renew(keys.peer_id, SECRET, NOW_S, NOTHING)
    with pytest.raises(HostUnknown):
        second.renew(keys.peer_id, SECRET, NOW_S, NOTHING)


def test_a_host_that_was_adopted_shows_its_key_itself_and_once() -> None:
    _, second = issuers()
    keys, other = HostKeys.generate(SECRET), HostKeys.generate(SECRET)
    second = replace(second, hosts=with_adopted(second.hosts, keys.peer_id, NOW_S))
    second = authority_from_bytes(authority_to_bytes(second))
    assert second.hosts[keys.peer_id].sealing_public == b""
    with pytest.raises(UnknownHost, match="has not shown its key yet"):
        second.host(keys.peer_id).need_sealing()
    with pytest.raises(HostUnknown):  # as a host of the version before asks, which shows none
        second.renew(keys.peer_id, SECRET, NOW_S, NOTHING)
    second, public = second.create_tenant("all", SECRET, public=True)
    assert keys.peer_id not in second.tenants[public].content.members
    for shown in (keys.sealing_public, other.sealing_public, b""):
        second, _ = second.renew(keys.peer_id, SECRET, NOW_S, NOTHING, sealing_shown=shown)
        second = authority_from_bytes(authority_to_bytes(second))
        assert second.host(keys.peer_id).need_sealing() == keys.sealing_public
    second, later = second.create_tenant("later", SECRET, public=True)
    assert second.tenants[later].content.members[keys.peer_id] == keys.sealing_public
    again = with_adopted(second.hosts, keys.peer_id, NOW_S)
    assert again[keys.peer_id].sealing_public == keys.sealing_public


def test_the_role_goes_from_the_ticket_to_the_host_and_stays() -> None:
    first, _ = issuers()
    first, ticket = invited(first, HostRole.ISSUER)
    assert Ticket.parse(ticket.to_text()).role is HostRole.ISSUER
    first = authority_from_bytes(authority_to_bytes(first))
    keys = HostKeys.generate(SECRET)
    first, _ = first.admit(make_join_request(keys, ticket), SECRET, NOW_S, NOTHING)
    assert first.hosts[keys.peer_id].role is HostRole.ISSUER
    first, _ = first.renew(keys.peer_id, SECRET, NOW_S, NOTHING)
    first = authority_from_bytes(authority_to_bytes(first))
    assert first.hosts[keys.peer_id].role is HostRole.ISSUER
    first, plain = invited(first)
    other = HostKeys.generate(SECRET)
    first, _ = first.admit(make_join_request(other, plain), SECRET, NOW_S, NOTHING)
    assert first.hosts[other.peer_id].role is HostRole.PEER


def test_nobody_makes_a_peers_ticket_one_for_issuers() -> None:
    """What it was made for stands in the issuer's row; the ticket's text only tells a person."""
    first, _ = issuers()
    first, ticket = invited(first)
    keys = HostKeys.generate(SECRET)
    raised = Ticket.parse(replace(ticket, role=HostRole.ISSUER).to_text())
    first, _ = first.admit(make_join_request(keys, raised), SECRET, NOW_S, NOTHING)
    assert first.hosts[keys.peer_id].role is HostRole.PEER


def test_a_state_of_before_roles_is_read() -> None:
    first, _ = issuers()
    first, ticket = invited(first)
    keys = HostKeys.generate(SECRET)
    first, _ = first.enrol(keys.peer_id, keys.sealing_public, (), SECRET, NOW_S)
    state = msgspec.msgpack.decode(authority_to_bytes(first))
    for row in (state, *state["tickets"], *state["hosts"]):
        assert not {"role", "founded"} & set(row), "none is written where there is none"
    older = authority_from_bytes(msgspec.msgpack.encode(state))
    assert (older.hosts, older.tickets) == (first.hosts, first.tickets)
    assert older.founded
    assert older.tickets[ticket.ticket_id].role is HostRole.PEER
    state["hosts"][0]["role"] = "root"
    with pytest.raises(MalformedObject):
        authority_from_bytes(msgspec.msgpack.encode(state))
