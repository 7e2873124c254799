"""What an issuer keeps of the client tokens that it has made: enough to list and to revoke them.

Never the token itself: whoever reads the issuer's state can ask nothing with it. A token that has
ended is forgotten, since nobody takes it any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from security.certificate import IssuerKey
from security.errors import LimitExceeded
from security.keys import Secret
from security.tenant import TenantId
from security.token import issue_token

TOKENS_MAX = 4096
"""Tokens of one issuer that are good at a time; the ledger is stored whole with each new one."""

TOKEN_TTL_S_MAX = 10 * 365 * 86_400
_ID_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedToken:
    """A client's token; ``text`` is shown once, ``token_id`` revokes it."""

    text: str = field(repr=False)
    token_id: str
    tenant_id: TenantId
    expires_unix_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow:
    """One token that has not ended: its id, whose it is, and until when."""

    token_id: str
    tenant_id: TenantId
    name: str
    scopes: tuple[str, ...]
    issued_unix_s: int
    expires_unix_s: int

    @classmethod
    def of(
        cls, token: IssuedToken, name: str, scopes: Sequence[str], now_unix_s: float
    ) -> TokenRow:
        """What is kept of a token that is made now."""
        return cls(
            token_id=token.token_id,
            tenant_id=token.tenant_id,
            name=name,
            scopes=tuple(sorted(scopes)),
            issued_unix_s=int(now_unix_s),
            expires_unix_s=token.expires_unix_s,
        )


def make_token(
    issuer: IssuerKey,
    tenant_id: TenantId,
    name: str,
    *,
    ttl_s: float,
    scopes: Sequence[str],
    secret: Secret,
    now_unix_s: float,
) -> IssuedToken:
    """Signs a client's token with an id that is drawn here.

    Raises:
        LimitExceeded: when a field is over its bound.
    """
    if not 0 < ttl_s <= TOKEN_TTL_S_MAX:
        raise LimitExceeded("a token is good for more than 0 s and at most 10 years")
    token_id, expires_unix_s = secret(_ID_BYTES).hex(), int(now_unix_s + ttl_s)
    text = issue_token(
        issuer,
        tenant_id=tenant_id,
        name=name,
        scopes=scopes,
        token_id=token_id,
        now_unix_s=now_unix_s,
        expires_unix_s=expires_unix_s,
    )
    return IssuedToken(
        text=text, token_id=token_id, tenant_id=tenant_id, expires_unix_s=expires_unix_s
    )


Ledger = Mapping[str, TokenRow]
"""Tokens by id, in the order in which they were made."""


def with_token(
    ledger: Ledger, row: TokenRow, now_unix_s: float, revoked: Mapping[str, bytes]
) -> Ledger:
    """The ledger and one more token, without those that have ended.

    Where it is full those that are ``revoked`` make room: nobody takes them any more either.

    Raises:
        LimitExceeded: when too many tokens are good at present.
    """
    kept = {id_: old for id_, old in ledger.items() if now_unix_s < old.expires_unix_s}
    if len(kept) >= TOKENS_MAX:
        kept = {id_: old for id_, old in kept.items() if id_ not in revoked}
    if len(kept) >= TOKENS_MAX:
        raise LimitExceeded(
            f"{TOKENS_MAX} tokens are good already: revoke some with 'rhizome token revoke', "
            "or let them end"
        )
    kept[row.token_id] = row
    return MappingProxyType(kept)
