"""The issuer's ledger of tokens, and the statements that it keeps: bounded, and stored whole."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from security.authority import Authority
from security.authority_state import authority_from_bytes, authority_to_bytes
from security.errors import LimitExceeded
from security.ledger import TOKENS_MAX, TokenRow, with_token
from security.revocation import REVOKED_MAX, open_revocation
from security.tenant import TenantId
from tests.security.world import NOW_S, seeded


def row(number: int, until_s: float = NOW_S + 60) -> TokenRow:
    return TokenRow(
        token_id=f"{number:032x}",
        tenant_id=TenantId("0f" * 16),
        name="web",
        scopes=("infer",),
        issued_unix_s=int(NOW_S),
        expires_unix_s=int(until_s),
    )


def created() -> Authority:
    return Authority.create(seeded(1), NOW_S, ["default"])


def test_ended_tokens_are_forgotten_with_the_next_one() -> None:
    ledger = with_token({}, row(1), NOW_S, {})
    ledger = with_token(ledger, row(2, NOW_S + 600), NOW_S, {})
    assert list(ledger) == [row(1).token_id, row(2).token_id]
    assert list(with_token(ledger, row(3), NOW_S + 60, {})) == [row(2).token_id, row(3).token_id]


def test_a_full_ledger_takes_no_more_and_revoked_tokens_make_room() -> None:
    full = {row(number).token_id: row(number) for number in range(TOKENS_MAX)}
    with pytest.raises(LimitExceeded, match="rhizome token revoke"):
        with_token(full, row(TOKENS_MAX), NOW_S, {})
    revoked = {row(7).token_id: b"statement"}
    ledger = with_token(full, row(TOKENS_MAX), NOW_S, revoked)
    assert row(7).token_id not in ledger
    assert len(ledger) == TOKENS_MAX


def test_revoking_again_signs_nothing_new() -> None:
    authority, statement = created().revoke("x", NOW_S, reason="lost")
    again, same = authority.revoke("x", NOW_S + 5, reason="stolen")
    assert again is authority
    assert same == statement
    said = open_revocation(statement, authority.trust).value
    assert (said.id, said.reason, said.since_unix_s) == ("x", "lost", int(NOW_S))


@pytest.mark.parametrize(("id_", "reason"), [("", ""), ("x" * 65, ""), ("x", "r" * 129)])
def test_what_no_statement_can_hold_is_not_signed(id_: str, reason: str) -> None:
    with pytest.raises(LimitExceeded):
        created().revoke(id_, NOW_S, reason=reason)


def test_an_issuers_statements_are_bounded() -> None:
    full = replace(created(), revoked={str(number): b"" for number in range(REVOKED_MAX)})
    with pytest.raises(LimitExceeded):
        full.revoke("more", NOW_S)
    assert full.revoke("7", NOW_S) == (full, b"")


def test_tokens_and_statements_are_stored() -> None:
    authority = created()
    authority, issued = authority.issue_token(
        authority.tenant_id("default"),
        "web",
        ttl_s=60,
        scopes=["status", "infer"],
        secret=seeded(2),
        now_unix_s=NOW_S,
    )
    authority, statement = authority.revoke(issued.token_id, NOW_S)
    read = authority_from_bytes(authority_to_bytes(authority))
    assert dict(read.tokens) == dict(authority.tokens)
    assert read.tokens[issued.token_id].scopes == ("infer", "status")
    assert dict(read.revoked) == {issued.token_id: statement}


def test_the_state_of_a_version_that_kept_neither_still_opens() -> None:
    state = msgspec.msgpack.decode(authority_to_bytes(created()))
    assert not {"tokens", "revoked"} & set(state), "what is empty is not written"
    read = authority_from_bytes(msgspec.msgpack.encode(state))
    assert not read.tokens
    assert not read.revoked
    assert read.tenant_names == created().tenant_names
