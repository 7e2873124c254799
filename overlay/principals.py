"""Who asks: from a bearer token or from owning the Unix socket to a principal."""

from __future__ import annotations

from collections.abc import Callable

from overlay.errors import RequestError
from overlay.ports import Clock
from overlay.request import Principal, Scope
from overlay.tenants import TenantBook
from security.certificate import IssuerId
from security.epoch import TenantEpoch
from security.errors import (
    Expired,
    NotYetValid,
    Revoked,
    SecurityError,
    UnsupportedVersion,
    UntrustedIssuer,
    WrongOverlay,
)
from security.revocation import RevocationSet
from security.tenant import TenantId
from security.token import TokenCache
from security.trust import Trust

OWNER = "owner"
"""Stands for a token's id where the owner asks."""
DEFAULT_TENANT = "default"
REVOKED = "the token is revoked: rhizome token create"
SCOPES = {scope.value: scope for scope in Scope}


def need(principal: Principal, *scopes: Scope) -> None:
    """Checks that a credential has one of these scopes.

    Raises:
        RequestError: 403, naming them.
    """
    if principal.scopes.isdisjoint(scopes):
        names = " or ".join(scope.value for scope in scopes)
        raise RequestError(
            f"the token lacks scope {names}: rhizome token create --scope {scopes[0].value}",
            code="forbidden",
            status=403,
        )


class Principals:
    """Checks credentials; verified tokens are remembered until they end or are revoked."""

    def __init__(
        self,
        trust: Callable[[], Trust],
        tenants: TenantBook,
        clock: Clock,
        revocations: Callable[[], RevocationSet],
        issuer: Callable[[], IssuerId],
    ) -> None:
        """``issuer`` is that of this host's own certificate."""
        self._trust = trust
        self._issuer = issuer
        self._tenants = tenants
        self._clock = clock
        self._revocations = revocations
        self._cache = TokenCache()

    def of_token(self, text: str) -> Principal:
        """The principal of a bearer token.

        Raises:
            RequestError: 401, saying what kind of thing is wrong and never quoting the token.
        """
        if not text:
            raise unauthorized("a bearer token is needed: rhizome token create")
        try:
            claims = self._cache.verify(
                text, self._trust(), self._clock.unix_s(), self._revocations()
            )
        except SecurityError as error:
            raise unauthorized(words_of(error)) from None
        return Principal(
            tenant=claims.tenant_id,
            token_id=claims.token_id,
            scopes=frozenset(SCOPES[name] for name in claims.scopes if name in SCOPES),
        )

    def of_owner(self, tenant: str) -> Principal:
        """This host's owner, as a tenant; an empty name means the only one, or ``default``.

        A public tenant is never meant where it is not named, nor one of another issuer than that of
        this host's certificate: any issuer can put any host on a roster, and prompts with it.

        Raises:
            RequestError: When this host serves no such tenant.
        """
        epoch = self.tenant_named(tenant) if tenant else self._usual()
        return Principal(tenant=TenantId(epoch.tenant_id), token_id=OWNER, scopes=frozenset(Scope))

    def _usual(self) -> TenantEpoch:
        issuer_id = self._issuer()
        own = [
            epoch
            for epoch in self._tenants
            if epoch.header.steward == issuer_id and not epoch.public
        ]
        meant = own if len(own) == 1 else [each for each in own if each.name == DEFAULT_TENANT]
        if not meant:
            raise self._not_served(DEFAULT_TENANT)
        return meant[0]

    def tenant_named(self, name: str) -> TenantEpoch:
        """The tenant that this host's owner means, as ``TenantBook.named``.

        Raises:
            RequestError: When this host serves no such tenant, or two of that name.
        """
        epoch = self._tenants.named(name)
        if epoch is None:
            raise self._not_served(name)
        return epoch

    def _not_served(self, name: str) -> RequestError:
        served = ", ".join(each.name for each in self._tenants) or "none"
        return RequestError(
            f"this host serves no tenant {name[:64]!r}; it serves: {served}",
            code="not_a_member",
            status=421,
            param="tenant",
        )


def words_of(error: SecurityError) -> str:
    """What is wrong with a token, and what to do."""
    match error:
        case Expired():
            return "the token has expired: rhizome token create"
        case Revoked():
            return REVOKED
        case NotYetValid():
            return str(error)
        case UnsupportedVersion():
            return f"{error}: update rhizome on it, or make a token for it: rhizome token create"
        case WrongOverlay() | UntrustedIssuer():
            return "the token is for another overlay: use the base URL that was printed with it"
        case _:
            return "that is no whole token of this overlay: copy all of it, or rhizome token create"


def unauthorized(message: str) -> RequestError:
    """A 401 in OpenAI's terms."""
    return RequestError(message, code="invalid_api_key", status=401)
