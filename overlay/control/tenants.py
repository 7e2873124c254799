"""Answers the commands about tenants: what the owner may see, and what the steward does."""

from __future__ import annotations

from overlay.control.tenant_messages import (
    AddMember,
    CreateTenant,
    ListTenants,
    RemoveMember,
    RotateTenant,
    TenantCommand,
    TenantReply,
    TenantsReply,
)
from overlay.errors import ConfigError
from overlay.node import Node
from overlay.steward import Steward
from security.epoch import EpochContent, TenantEpoch

NOT_THE_STEWARD = (
    "only an issuer's host keeps rosters: run it where 'rhizome init' or 'rhizome ca issuer "
    "install' was run ('rhizome tenant list' works here)"
)


def reply_to(
    command: TenantCommand, node: Node, steward: Steward | None
) -> TenantReply | TenantsReply:
    """Does what a command says.

    Raises:
        ConfigError: Not on the issuer's host, or what ``Steward`` says.
        SecurityError, StorageError: As ``Steward``.
    """
    if isinstance(command, ListTenants):
        kept = [] if steward is None else steward.kept()
        told = {content.tenant_id: told_of(content, node, kept=True) for content in kept}
        for epoch in node.tenants:
            told.setdefault(epoch.tenant_id, told_of(epoch, node, kept=False))
        return TenantsReply(tenants=sorted(told.values(), key=lambda one: one.name))
    if steward is None:
        raise ConfigError(NOT_THE_STEWARD)
    match command:
        case CreateTenant():
            content = steward.create(command.name, public=command.public, empty=command.empty)
        case AddMember():
            content = steward.add(command.tenant, command.peer)
        case RemoveMember():
            content = steward.remove(command.tenant, command.peer)
        case RotateTenant():
            content = steward.rotate(command.tenant, hard=command.hard)
    return told_of(content, node, kept=True)


def told_of(tenant: EpochContent | TenantEpoch, node: Node, *, kept: bool) -> TenantReply:
    """A tenant as this host's owner is told of it: no key is in it."""
    return TenantReply(
        name=tenant.name,
        tenant_id=tenant.tenant_id,
        epoch=tenant.epoch,
        version=tenant.version,
        public=tenant.public,
        kept=kept,
        member=node.peer_id in tenant.members,
        members=sorted(tenant.members),
    )
