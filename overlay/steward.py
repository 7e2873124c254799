"""What the issuer's host does as steward of its tenants: makes them, and changes their rosters.

Each change is stored durably, then told: the new EPOCH object goes to every peer that is up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from overlay.errors import ConfigError
from overlay.issuer import IssuerDesk
from security.authority import Authority
from security.epoch import EpochContent
from security.errors import MalformedIdentity
from security.keys import HostKeys, Secret
from security.peer_id import PeerId, parse_peer_id
from security.tenant import TenantId


@dataclass(frozen=True, slots=True, kw_only=True)
class Steward:
    """The tenants that this host's issuer keeps.

    Args:
        desk: Where the issuer's state lives.
        keys: This host's, which becomes the first member of a tenant.
        secret: What fresh keys are made of.
    """

    desk: IssuerDesk
    keys: HostKeys
    secret: Secret

    def kept(self) -> list[EpochContent]:
        """Every tenant that this issuer keeps, by name."""
        tenants = self.desk.authority.tenants.values()
        return sorted((kept.content for kept in tenants), key=lambda content: content.name)

    def create(self, name: str, *, public: bool, empty: bool) -> EpochContent:
        """Makes a tenant, with this host as its first member unless it shall be ``empty``.

        Raises:
            SecurityError: When the name is none or taken, or there are too many tenants.
            StorageError: When it cannot be stored; then there is none.
        """
        authority, tenant_id = self.desk.authority.create_tenant(name, self.secret, public=public)
        if not empty:
            authority, _ = authority.add_member(
                tenant_id, self.keys.peer_id, self.keys.sealing_public, self.secret
            )
        return self._stored(authority, tenant_id)

    def add(self, name: str, peer: str) -> EpochContent:
        """Puts a host that this issuer has enrolled on a tenant's roster.

        Raises:
            ConfigError: When that is no PeerId.
            SecurityError: When there is no such tenant or host, or it is revoked.
            RostersUnheard, HomeError, StorageError: As ``IssuerDesk.catch_up_with_others``, or
                when it cannot be stored; then nothing has changed.
        """
        peer_id = peer_of(peer)

        def change(authority: Authority, tenant_id: TenantId) -> tuple[Authority, bytes]:
            sealing = authority.host(peer_id).need_sealing()
            return authority.add_member(tenant_id, peer_id, sealing, self.secret)

        return self._change(name, change)

    def remove(self, name: str, peer: str) -> EpochContent:
        """Takes a host off a tenant's roster, and begins an epoch of which it gets no key.

        Raises:
            ConfigError: When that is no PeerId.
            SecurityError: When there is no such tenant, or the host is no member.
            RostersUnheard, HomeError, StorageError: As ``IssuerDesk.catch_up_with_others``, or
                when it cannot be stored; then nothing has changed.
        """
        peer_id = peer_of(peer)

        def change(authority: Authority, tenant_id: TenantId) -> tuple[Authority, bytes]:
            return authority.remove_member(tenant_id, peer_id, self.secret)

        return self._change(name, change)

    def rotate(self, name: str, *, hard: bool) -> EpochContent:
        """Begins a new epoch of a tenant; ``hard``: all that was cached for it is void.

        Raises:
            SecurityError: When there is no such tenant.
            RostersUnheard, HomeError, StorageError: As ``IssuerDesk.catch_up_with_others``, or
                when it cannot be stored; then nothing has changed.
        """
        return self._change(
            name, lambda authority, tenant: authority.rotate(tenant, self.secret, hard=hard)
        )

    def _change(
        self, name: str, change: Callable[[Authority, TenantId], tuple[Authority, bytes]]
    ) -> EpochContent:
        self.desk.catch_up_with_others()
        authority = self.desk.authority
        tenant_id = authority.tenant_id(name)
        after, _ = change(authority, tenant_id)
        if after is authority:
            return authority.tenants[tenant_id].content
        return self._stored(after, tenant_id)

    def _stored(self, authority: Authority, tenant_id: TenantId) -> EpochContent:
        kept = authority.tenants[tenant_id]
        self.desk.store(authority, [kept.epoch_object])
        return kept.content


def peer_of(text: str) -> PeerId:
    """The PeerId that a person typed. Raises ConfigError, saying where to find it."""
    try:
        return parse_peer_id(text)
    except MalformedIdentity:
        raise ConfigError(
            "that is no PeerId: give the whole one, as 'rhizome status' on that host prints it"
        ) from None
