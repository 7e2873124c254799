"""What a person types to have something revoked: found, ambiguous, unknown, or something else."""

from __future__ import annotations

import pytest

from overlay.errors import ConfigError
from overlay.revocation.subject import KnownIds, SubjectKind, subject_of
from security.authority import Authority
from security.keys import HostKeys
from security.tenant import TenantId
from tests.security.world import NOW_S, Overlay, seeded

OVERLAY = Overlay(1)
PEERS = sorted(OVERLAY.host().peer_id for _ in range(4))
TOKEN, TICKET, TENANT, STRANGE = ("0a" * 16, "0b" * 16, "0c" * 16, "0d" * 16)
KNOWN = KnownIds(
    trust=OVERLAY.trust,
    peers=PEERS,
    tokens={TOKEN: "open-webui"},
    tickets={TICKET},
    tenants={TENANT},
)
STRANGER = HostKeys.generate(seeded(77)).peer_id


def meaning(
    text: str, kind: SubjectKind | None = None, *, unknown: bool = False
) -> tuple[str, str]:
    found = subject_of(text, KNOWN, kind, unknown=unknown)
    return found.kind.value, found.id


def refusal(text: str, kind: SubjectKind | None = None, *, unknown: bool = False) -> str:
    with pytest.raises(ConfigError) as caught:
        subject_of(text, KNOWN, kind, unknown=unknown)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_each_known_thing_is_found_by_its_form() -> None:
    assert meaning(PEERS[0]) == ("peer", PEERS[0])
    assert meaning(f" {PEERS[1]}\n") == ("peer", PEERS[1])
    assert meaning(PEERS[2][-8:]) == ("peer", PEERS[2])
    assert meaning(TOKEN) == ("token", TOKEN)
    assert subject_of(TOKEN, KNOWN).name == "open-webui"
    assert meaning(TICKET) == ("ticket", TICKET)
    assert meaning(OVERLAY.issuer.issuer_id) == ("issuer", OVERLAY.issuer.issuer_id)


def test_whole_tickets_and_tokens_are_read() -> None:
    authority = Authority.create(seeded(1), NOW_S, ["default"])
    known = KnownIds(trust=authority.trust, peers=(), tokens={}, tickets=(), tenants=())
    authority, ticket = authority.invite(["default"], ["x:1"], 60, seeded(2), NOW_S)
    found = subject_of(ticket.to_text().upper(), known)
    assert (found.kind, found.id) == (SubjectKind.TICKET, ticket.ticket_id)
    _, token = authority.issue_token(
        authority.tenant_id("default"),
        "web",
        ttl_s=60,
        scopes=[],
        secret=seeded(2),
        now_unix_s=NOW_S - 1000,
    )
    found = subject_of(token.text, known)
    assert (found.kind, found.id) == (SubjectKind.TOKEN, token.token_id)
    for text, words in (
        (ticket.to_text()[:-9], "that ticket cannot be read"),
        (token.text[:-9] + "AAAAAAAAA", "that token cannot be read"),
        (token.text.replace(".", "..", 1), "is no PeerId"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            subject_of(text, known)
        assert text not in str(caught.value)
    foreign = KnownIds(trust=Overlay(9).trust, peers=(), tokens={}, tickets=(), tenants=())
    with pytest.raises(ConfigError, match="another overlay"):
        subject_of(ticket.to_text(), foreign)
    with pytest.raises(ConfigError, match="cannot be read"):
        subject_of(token.text, foreign)


def test_an_end_that_two_peers_have_is_ambiguous() -> None:
    tail = PEERS[0][-8:]
    twin = "12D3KooW" + "1" * 36 + tail
    known = KnownIds(trust=OVERLAY.trust, peers=[*PEERS, twin], tokens={}, tickets=(), tenants=())
    with pytest.raises(ConfigError, match="could be any of") as caught:
        subject_of(tail, known)
    assert PEERS[0] in str(caught.value)
    assert twin in str(caught.value)
    assert subject_of(PEERS[0], known).id == PEERS[0]


def test_one_id_of_two_kinds_is_ambiguous() -> None:
    known = KnownIds(
        trust=OVERLAY.trust, peers=(), tokens={TICKET: "x"}, tickets={TICKET}, tenants=()
    )
    with pytest.raises(ConfigError, match="could be any of token"):
        subject_of(TICKET, known)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TENANT, "that is a tenant"),
        (OVERLAY.overlay_id, "that is the overlay itself"),
        (STRANGE, "no token, ticket or issuer of that id is known here"),
        (STRANGER, "no host of that PeerId is known here"),
        ("owner", "is no PeerId, ticket, token, or id of one"),
        ("", "is no PeerId"),
        (PEERS[0][-5:], "is no PeerId"),
        (TOKEN.upper(), "is no PeerId"),
        ("rhz1abc", "that ticket cannot be read"),
    ],
)
def test_what_is_nothing_known_is_refused_in_words(text: str, words: str) -> None:
    assert words in refusal(text)


def test_a_kind_that_is_said_must_be_the_one_that_is_known() -> None:
    assert meaning(TOKEN, SubjectKind.TOKEN) == ("token", TOKEN)
    assert refusal(TICKET, SubjectKind.TOKEN) == "that is a ticket, and no token"
    assert refusal(PEERS[0], SubjectKind.ISSUER, unknown=True) == "that is a peer, and no issuer"


def test_what_is_known_elsewhere_is_taken_only_where_somebody_says_what_it_is() -> None:
    assert meaning(STRANGER, SubjectKind.PEER, unknown=True) == ("peer", STRANGER)
    for kind in (SubjectKind.TOKEN, SubjectKind.TICKET, SubjectKind.ISSUER):
        assert meaning(STRANGE, kind, unknown=True) == (kind.value, STRANGE)
        refusal(STRANGER, kind, unknown=True)
    assert "no token of that id" in refusal(STRANGE, SubjectKind.TOKEN)
    refusal(STRANGE, SubjectKind.PEER, unknown=True)
    refusal("owner", SubjectKind.TOKEN, unknown=True)
    refusal(TENANT[:-1], SubjectKind.TOKEN, unknown=True)


def test_a_tenant_is_never_a_token() -> None:
    assert TenantId(TENANT) in KNOWN.tenants
    assert "that is a tenant" in refusal(TENANT, SubjectKind.TOKEN, unknown=True)
