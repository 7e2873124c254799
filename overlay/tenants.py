"""Tenants that this host belongs to: those whose roster names it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from inference.blocks import BlockChain
from inference.request import PrefixIdentity
from overlay.errors import RequestError
from security.epoch import TenantEpoch
from security.peer_id import PeerId
from security.tenant import TenantId


class TenantBook:
    """The newest epoch of each tenant, and the block chains that its key gives.

    ``changed`` grows with every change, for whoever keeps something derived; ``on_tenants`` is told
    of all tenants when one comes or goes.
    """

    def __init__(self, on_tenants: Callable[[Iterable[TenantId]], None] = lambda _: None) -> None:
        self._on_tenants = on_tenants
        self._epochs: dict[TenantId, TenantEpoch] = {}
        self._chains: dict[tuple[TenantId, int, PrefixIdentity], BlockChain] = {}

    def learn(self, epoch: TenantEpoch) -> bool:
        """Takes an opened epoch in unless a newer one is known; True where it was taken."""
        known = self._epochs.get(epoch.tenant_id)
        if known is not None and (known.epoch, known.version) >= (epoch.epoch, epoch.version):
            return False
        self._epochs[epoch.tenant_id] = epoch
        self._chains = {k: v for k, v in self._chains.items() if k[0] != epoch.tenant_id}
        if known is None:
            self._on_tenants(tuple(self._epochs))
        return True

    def voids(self, epoch: TenantEpoch) -> bytes | None:
        """The chain key that this epoch makes void: none but after a hard rotation."""
        known = self._epochs.get(epoch.tenant_id)
        if known is None or known.keys.chain_key == epoch.keys.chain_key:
            return None
        return known.keys.chain_key

    def forget(self, tenant: TenantId) -> None:
        """This host is on the tenant's roster no longer."""
        if self._epochs.pop(tenant, None) is not None:
            self._chains = {k: v for k, v in self._chains.items() if k[0] != tenant}
            self._on_tenants(tuple(self._epochs))

    def get(self, tenant: TenantId) -> TenantEpoch | None:
        """The tenant's epoch, None where this host is no member."""
        return self._epochs.get(tenant)

    def __contains__(self, tenant: object) -> bool:
        return tenant in self._epochs

    def named(self, name: str) -> TenantEpoch | None:
        """The tenant of that name, for this host's owner.

        Two issuers may each keep one of that name: ``NAME@ISSUER``, with the first letters of an
        issuer's id, says which.

        Raises:
            RequestError: When more than one is meant.
        """
        short, _, steward = name.partition("@")
        found = [
            epoch
            for epoch in self
            if epoch.name == short and epoch.header.steward.startswith(steward)
        ]
        if len(found) > 1:
            ways = " or ".join(sorted(f"{short}@{epoch.header.steward[:16]}" for epoch in found))
            raise RequestError(
                f"this host is a member of {len(found)} tenants of that name, which different "
                f"issuers keep: say --tenant {ways}",
                code="ambiguous_tenant",
                param="tenant",
            )
        return found[0] if found else None

    def is_member(self, tenant: TenantId, peer_id: PeerId) -> bool:
        """Whether the tenant's roster names that peer."""
        epoch = self._epochs.get(tenant)
        return epoch is not None and peer_id in epoch.members

    def chain(self, tenant: TenantEpoch, identity: PrefixIdentity) -> BlockChain:
        """How the tenant's blocks of a model are hashed."""
        # By its epoch: a request under way may still know the one before.
        key = (tenant.tenant_id, tenant.epoch, identity)
        chain = self._chains.get(key)
        if chain is None:
            chain = self._chains[key] = BlockChain(tenant.keys.chain_key, identity)
        return chain

    def __iter__(self) -> Iterator[TenantEpoch]:
        return iter(sorted(self._epochs.values(), key=lambda epoch: epoch.name))

    def __len__(self) -> int:
        return len(self._epochs)
