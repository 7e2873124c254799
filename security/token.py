"""Client tokens: EdDSA JWTs that every peer verifies offline.

The algorithm is fixed: the token's own word for it is compared and never followed. Audience is the
overlay, issuer the issuer's id, and the tenant comes from here, never from a request's body.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated, Any

import jwt
import msgspec
from msgspec import Meta

from security.certificate import IssuerId, IssuerKey
from security.errors import (
    BadSignature,
    Expired,
    LimitExceeded,
    MalformedToken,
    NotYetValid,
    Revoked,
    UnsupportedVersion,
    WrongOverlay,
)
from security.judge import judge_issuer
from security.revocation import RevocationSet
from security.tenant import ID_PATTERN, TenantId
from security.trust import Trust

VERSION = 1
VERSION_MAX = 255
ALGORITHM = "EdDSA"
TOKEN_CHARS_MAX = 2048
SCOPES_MAX = 16
CACHED_TOKENS_MAX = 1024
CLOCK_LEEWAY_S = 600.0
"""As far as certificates are set back: the issuer's clock may run ahead of ours."""

Name = Annotated[str, Meta(min_length=1, max_length=64)]
Scope = Annotated[str, Meta(min_length=1, max_length=32)]


class TokenClaims(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a token says, in JWT's own names; ``jti`` is the token's id, ``sub`` its name."""

    v: Annotated[int, Meta(ge=VERSION, le=VERSION)]
    iss: Annotated[str, Meta(pattern=ID_PATTERN)]
    aud: Annotated[str, Meta(pattern=ID_PATTERN)]
    tenant: Annotated[str, Meta(pattern=ID_PATTERN)]
    sub: Name
    jti: Annotated[str, Meta(pattern=ID_PATTERN)]
    iat: Annotated[int, Meta(ge=0)]
    exp: Annotated[int, Meta(ge=0)]
    scopes: Annotated[tuple[Scope, ...], Meta(max_length=SCOPES_MAX)]

    @property
    def tenant_id(self) -> TenantId:
        return TenantId(self.tenant)

    @property
    def token_id(self) -> str:
        return self.jti

    @property
    def name(self) -> str:
        return self.sub


def issue_token(
    issuer: IssuerKey,
    *,
    tenant_id: TenantId,
    name: str,
    scopes: Sequence[str],
    token_id: str,
    now_unix_s: float,
    expires_unix_s: float,
) -> str:
    """Signs a client's token.

    Args:
        issuer: who signs.
        tenant_id: the tenant whose requests it may make.
        name: for people, to tell tokens apart.
        scopes: what else it may do.
        token_id: 32 random hex digits; it is revoked by them.
        now_unix_s: the time.
        expires_unix_s: its end.

    Raises:
        LimitExceeded: when a field is over its bound.
    """
    claims = {
        "v": VERSION,
        "iss": issuer.issuer_id,
        "aud": issuer.overlay_id,
        "tenant": tenant_id,
        "sub": name,
        "jti": token_id,
        "iat": int(now_unix_s),
        "exp": int(expires_unix_s),
        "scopes": sorted(scopes),
    }
    try:
        msgspec.convert(claims, TokenClaims)
    except msgspec.ValidationError:
        raise LimitExceeded("a token's name or scopes are empty or too long") from None
    text = jwt.encode(
        claims, issuer.private, algorithm=ALGORITHM, headers={"kid": issuer.issuer_id}
    )
    if len(text) > TOKEN_CHARS_MAX:
        raise LimitExceeded("a token's name or scopes are too long")
    return text


def verify_token(
    text: str, trust: Trust, now_unix_s: float, revocations: RevocationSet
) -> TokenClaims:
    """Checks a client's token.

    Raises:
        MalformedToken: it is no token, or names another algorithm.
        UnsupportedVersion: it says that it is of another version, whatever else it holds.
        UntrustedIssuer: its issuer is not known under our root.
        BadSignature: its issuer did not sign it.
        WrongOverlay: it is for another overlay.
        Expired, NotYetValid: it is out of its dates, or its issuer is.
        Revoked: it or its issuer is revoked.
    """
    claims = _verify_signature(text, trust)
    judge_issuer(trust.issuer(IssuerId(claims.iss)), now_unix_s=now_unix_s, revocations=revocations)
    if revocations.revokes(claims.token_id):
        raise Revoked("the token is revoked")
    _check_dates(claims, now_unix_s)
    return claims


def token_id_of(text: str, trust: Trust) -> str:
    """The id by which a token is revoked; whether it is good now is not judged.

    Raises:
        MalformedToken, UnsupportedVersion, UntrustedIssuer, BadSignature, WrongOverlay: as
            ``verify_token``.
    """
    return _verify_signature(text, trust).token_id


class TokenCache:
    """Remembers tokens that were verified: the same one needs no signature check again.

    What is remembered holds for one trust and revocation set, and never beyond a token's end. The
    least recently used goes when it is full. Texts are kept as hashes.
    """

    def __init__(self, tokens_max: int = CACHED_TOKENS_MAX) -> None:
        self._tokens_max = tokens_max
        self._claims: OrderedDict[bytes, TokenClaims] = OrderedDict()
        self._valid_for: tuple[Trust, RevocationSet] | None = None

    def __len__(self) -> int:
        return len(self._claims)

    def verify(
        self, text: str, trust: Trust, now_unix_s: float, revocations: RevocationSet
    ) -> TokenClaims:
        """As ``verify_token``, at the cost of a hash where the token is remembered.

        Raises:
            SecurityError: as ``verify_token``.
        """
        if self._valid_for != (trust, revocations):
            self._claims.clear()
            self._valid_for = (trust, revocations)
        if len(text) > TOKEN_CHARS_MAX:
            raise MalformedToken("that is too long for a token")
        place = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32).digest()
        claims = self._claims.get(place)
        if claims is None:
            claims = verify_token(text, trust, now_unix_s, revocations)
            if len(self._claims) >= self._tokens_max:
                self._claims.popitem(last=False)
            self._claims[place] = claims
            return claims
        _check_dates(claims, now_unix_s)
        judge_issuer(
            trust.issuer(IssuerId(claims.iss)), now_unix_s=now_unix_s, revocations=revocations
        )
        self._claims.move_to_end(place)
        return claims


def _verify_signature(text: str, trust: Trust) -> TokenClaims:
    if len(text) > TOKEN_CHARS_MAX or not text.isascii():
        raise MalformedToken("not a token of this overlay")
    try:
        header = jwt.get_unverified_header(text)
        _check_version(jwt.decode(text, options={"verify_signature": False}).get("v"))
    except (jwt.PyJWTError, RecursionError):
        raise MalformedToken("not a token of this overlay") from None
    issuer_id = header.get("kid")
    if header.get("alg") != ALGORITHM or not isinstance(issuer_id, str) or "crit" in header:
        raise MalformedToken("not a token of this overlay")
    issuer = trust.issuer(IssuerId(issuer_id))
    try:
        # Dates are judged by the caller's clock, below.
        payload: dict[str, Any] = jwt.decode(  # Any: a foreign claim set, converted at once
            text,
            issuer.public,
            algorithms=[ALGORITHM],
            audience=trust.overlay_id,
            issuer=issuer.issuer_id,
            options={"verify_exp": False, "verify_iat": False, "verify_nbf": False},
        )
        return msgspec.convert(payload, TokenClaims)
    except jwt.InvalidSignatureError:
        raise BadSignature("the token's issuer did not sign it") from None
    except jwt.InvalidAudienceError:
        raise WrongOverlay("the token is for another overlay") from None
    except (jwt.PyJWTError, msgspec.ValidationError):
        raise MalformedToken("not a token of this overlay") from None


def _check_version(said: object) -> None:
    """Looked at first, and believed so far only: a later version may be signed in another way."""
    if isinstance(said, int) and 0 <= said <= VERSION_MAX and said != VERSION:
        raise UnsupportedVersion(f"a token of version {said}, and this host reads {VERSION}")


def _check_dates(claims: TokenClaims, now_unix_s: float) -> None:
    if now_unix_s >= claims.exp:
        raise Expired("the token has expired")
    if now_unix_s + CLOCK_LEEWAY_S < claims.iat:
        raise NotYetValid("the token is from the future: is the clock of this host right?")
