"""``rhizome revoke`` and ``rhizome token list`` at the issuer's own peer."""

from __future__ import annotations

from overlay.control.messages import (
    ControlRefusal,
    Reply,
    RevocationsReply,
    RevocationStatus,
    Revoke,
    RevokeReply,
    TokensReply,
    TokenStatus,
)
from overlay.issuer import IssuerDesk
from overlay.node import Node
from overlay.revocation.subject import Subject, SubjectKind, subject_of

MYSELF = (
    "that is this host itself: no other peer would take it in any more, and nobody could be "
    "admitted here; add --yes if that is meant"
)

ISSUER = (
    "with an issuer go all hosts that it has admitted, and all its tenants and tokens, for good; "
    "add --yes if that is meant"
)


SHOWN_MAX = 1000
"""Statements in one reply."""


def revocations_of(node: Node) -> RevocationsReply:
    """What is revoked, as far as this host knows."""
    known = node.keeper.exchange.statements()
    return RevocationsReply(
        total=len(known),
        revocations=[
            RevocationStatus(
                id=each.value.id,
                since_unix_s=each.value.since_unix_s,
                reason=each.value.reason,
                issuer=each.signer,
            )
            for each in reversed(known[-SHOWN_MAX:])
        ],
    )


def revoke(node: Node, desk: IssuerDesk, command: Revoke) -> Reply:
    """Revokes what was named.

    Raises:
        ConfigError: When it is nothing that is known here.
        SecurityError, StorageError: When it cannot be signed or stored.
    """
    known = desk.known_ids([*node.confirmation.others(), *node.peers.up()])
    subject = subject_of(command.subject, known, command.kind, unknown=command.unknown)
    danger = _danger(subject, node)
    if danger is not None and not command.sure:
        return ControlRefusal(message=danger)
    already = node.revocations.revokes(subject.id)
    if not already:
        desk.revoke(subject.id, command.reason)
    return RevokeReply(
        kind=subject.kind.value,
        id=subject.id,
        name=subject.name,
        already=already,
        peers=len(node.peers.up()),
    )


def _danger(subject: Subject, node: Node) -> str | None:
    """Why somebody who revokes this should think twice."""
    if subject.kind is SubjectKind.ISSUER:
        return ISSUER
    return MYSELF if subject.id == node.peer_id else None


def tokens_of(node: Node, desk: IssuerDesk) -> TokensReply:
    """The tokens that an issuer has made and that have not ended."""
    return TokensReply(
        tokens=[
            TokenStatus(
                token_id=row.token_id,
                tenant=desk.tenant_name(row.tenant_id),
                name=row.name,
                scopes=list(row.scopes),
                issued_unix_s=row.issued_unix_s,
                expires_unix_s=row.expires_unix_s,
                revoked=node.revocations.revokes(row.token_id),
            )
            for row in desk.tokens()
        ]
    )
