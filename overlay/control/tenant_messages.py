"""Commands about tenants and their rosters, and the replies."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Name = Annotated[str, Meta(max_length=256)]


class CreateTenant(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag="tenant-create",
):
    """A new tenant; ``empty``: without this host. ``public``: every host becomes a member."""

    name: Name
    public: bool = False
    empty: bool = False


class AddMember(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="tenant-add"
):
    """A host that was enrolled becomes a member."""

    tenant: Name
    peer: Name


class RemoveMember(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="tenant-remove"
):
    """A member is one no longer, and the tenant's epoch is a new one."""

    tenant: Name
    peer: Name


class RotateTenant(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag="tenant-rotate",
):
    """A new epoch; ``hard``: what is cached for the tenant is void too."""

    tenant: Name
    hard: bool = False


class ListTenants(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="tenant-list"
):
    """This host's tenants, and on the issuer's host all that it keeps."""


TenantCommand = CreateTenant | AddMember | RemoveMember | RotateTenant | ListTenants


class TenantReply(msgspec.Struct, frozen=True, kw_only=True, tag="tenant"):
    """One tenant. ``kept``: this host's issuer is its steward. ``member``: this host belongs."""

    name: str
    tenant_id: str
    epoch: int
    version: int
    public: bool
    kept: bool
    member: bool
    members: list[str]


class TenantsReply(msgspec.Struct, frozen=True, kw_only=True, tag="tenants"):
    """Tenants by name."""

    tenants: list[TenantReply]
