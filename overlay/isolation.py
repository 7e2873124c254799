"""Which tenants this host's engine may serve.

An engine that keeps tenants apart by itself (own block hashes, a cache salt) serves all of this
host's. One that cannot would let each tenant hit what others have asked, and so tell by its speed
what that was: it serves one tenant, unless the operator has said otherwise in so many words.
"""

from __future__ import annotations

from dataclasses import dataclass

from overlay.choices import Isolation
from overlay.ports import Engine
from overlay.tenants import TenantBook
from security.tenant import TenantId

SHARED_FLAG = "--engine-shared-by-tenants"

WORDS = {
    Isolation.SHARED: "shared: tenants can see each other's load, not what is cached",
    Isolation.STRICT: "strict: each tenant has a fixed part, and others cannot see its hits",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTenants:
    """The rule for one engine.

    Args:
        engine: Whose capabilities count, as they are at present.
        tenants: Those of this host.
        named: Name of the tenant that an engine without isolation serves; None: the only one.
        shared: Whether the operator lets several tenants share such an engine.
        isolation: How an engine that keeps them apart does so; None where it says that itself.
    """

    engine: Engine
    tenants: TenantBook
    named: str | None = None
    shared: bool = False
    isolation: Isolation | None = None

    def serves(self, tenant: TenantId) -> bool:
        """Whether the engine may run requests of a tenant."""
        capabilities = self.engine.capabilities()
        if capabilities.salts or self.shared or not capabilities.models:
            return True
        epoch = self.tenants.get(tenant)
        if epoch is None:
            return False
        if self.named is not None:
            return epoch.name == self.named
        # A public tenant's prompts are no reason to refuse the only tenant of its own.
        return not epoch.public and sum(not each.public for each in self.tenants) == 1

    def posture(self) -> list[tuple[str, str]]:
        """What the host's owner should know of it."""
        capabilities = self.engine.capabilities()
        if not capabilities.models:
            return []
        if capabilities.salts:
            return [] if self.isolation is None else [("isolation", WORDS[self.isolation])]
        names = [tenant.name for tenant in self.tenants if self.serves(tenant.tenant_id)]
        if self.shared:
            words = f"tenants share this engine's cache and can time each other ({SHARED_FLAG})"
        elif names:
            words = f"none in this engine, so it serves tenant {names[0]} alone"
        else:
            words = f"none in this engine: name its tenant (--engine-tenant), or {SHARED_FLAG}"
        return [("isolation", words)]
