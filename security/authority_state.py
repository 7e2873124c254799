"""How an :class:`Authority` is written to the issuer's own folder. Secret: it holds its keys."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Meta

from security.authority import Authority
from security.certificate import IssuerId, IssuerKey, OverlayId, Root, RootKey, parse_issuer
from security.certificate_form import key_id
from security.epoch import EpochContent, RosterMember, object_id_of
from security.errors import LimitExceeded, MalformedObject, SecurityError
from security.hosts import EnrolledHost, HostRole
from security.http_names import granted_names
from security.ledger import TokenRow
from security.peer_id import PeerId, parse_peer_id
from security.roster import KeptTenant
from security.tenant import TenantId, TenantName
from security.ticket import TicketRow
from security.wire import decode

VERSION = 1
STATE_BYTES_MAX = 16 << 20

Bytes32 = Annotated[bytes, Meta(min_length=32, max_length=32)]


class TenantState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tenant, with its secrets. No ``object_id``: it follows from the chain secret."""

    tenant_id: str
    nonce: bytes
    name: str
    epoch: int
    version: int
    epoch_key: Bytes32
    chain_secret: Bytes32
    members: list[RosterMember]
    epoch_object: bytes
    object_id: bytes = b""
    public: bool = False


class TicketState(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A ticket, without its secret."""

    verifier: Bytes32
    tenants: list[str]
    expires_unix_s: int
    used_by: str | None
    role: HostRole = HostRole.PEER
    http_names: list[str] = []


class HostState(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A host that was enrolled. ``sealing`` is missing where it has not shown its key yet."""

    peer_id: str
    sealing: Bytes32 | None = None
    leaf_ends_unix_s: int | None = None
    http_names: list[str] = []
    role: HostRole = HostRole.PEER


class TokenState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A client's token, without the token."""

    token_id: str
    tenant_id: str
    name: str
    scopes: list[str]
    issued_unix_s: int
    expires_unix_s: int


class RevokedState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A statement that this issuer has signed, and what it revokes."""

    id: str
    statement: bytes


class AuthorityState(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag="authority",
):
    """The whole state.

    ``root_key`` is None where it is kept elsewhere. Older files list no ``hosts``: rosters name
    them. Nothing is written of a field that is as older files leave it: the version before opens
    what uses nothing newer.
    """

    v: Annotated[int, Meta(ge=0, le=255)]
    root_key: Bytes32 | None
    root: bytes
    issuer_key: Bytes32
    issuer: bytes
    tenants: list[TenantState]
    tickets: list[TicketState]
    hosts: list[HostState] = []
    tokens: list[TokenState] = []
    revoked: list[RevokedState] = []
    founded: bool = True


def authority_to_bytes(authority: Authority) -> bytes:
    """The form for the issuer's own folder. Secret.

    Raises:
        LimitExceeded: when it is larger than what is read again.
    """
    data = msgspec.msgpack.encode(
        AuthorityState(
            v=VERSION,
            root_key=(
                authority.root.private.private_bytes_raw()
                if isinstance(authority.root, RootKey)
                else None
            ),
            root=authority.root.der,
            issuer_key=authority.issuer.private.private_bytes_raw(),
            issuer=authority.issuer.der,
            tenants=[_tenant_state(kept) for kept in authority.tenants.values()],
            tickets=[
                TicketState(
                    verifier=row.verifier,
                    tenants=list(row.tenants),
                    expires_unix_s=row.expires_unix_s,
                    used_by=row.used_by,
                    role=row.role,
                    http_names=list(row.http_names),
                )
                for row in authority.tickets.values()
            ],
            hosts=[
                HostState(
                    peer_id=peer_id,
                    sealing=host.sealing_public or None,
                    leaf_ends_unix_s=host.leaf_ends_unix_s,
                    http_names=list(host.http_names),
                    role=host.role,
                )
                for peer_id, host in authority.hosts.items()
            ],
            tokens=[_token_state(row) for row in authority.tokens.values()],
            revoked=[
                RevokedState(id=id_, statement=statement)
                for id_, statement in authority.revoked.items()
            ],
            founded=authority.founded,
        )
    )
    if len(data) > STATE_BYTES_MAX:
        raise LimitExceeded(
            f"an issuer's state is at most {STATE_BYTES_MAX} bytes: remove hosts from tenants"
        )
    return data


def authority_from_bytes(data: bytes) -> Authority:
    """Reads what ``authority_to_bytes`` wrote.

    Raises:
        MalformedObject: when it is something else, or damaged.
        UnsupportedVersion: when another version wrote it.
    """
    if len(data) > STATE_BYTES_MAX:
        raise MalformedObject(f"an issuer's state of {len(data)} bytes")
    state = decode(data, AuthorityState, VERSION, "an issuer's state")
    try:
        root, issuer = _keys(state)
        return Authority(
            root=root,
            issuer=issuer,
            tenants=MappingProxyType(
                {TenantId(one.tenant_id): _kept_tenant(one) for one in state.tenants}
            ),
            tickets=MappingProxyType(
                {row.ticket_id: row for row in (_ticket_row(one) for one in state.tickets)}
            ),
            hosts=MappingProxyType(_hosts(state)),
            tokens=MappingProxyType({one.token_id: _token_row(one) for one in state.tokens}),
            revoked=MappingProxyType({one.id: one.statement for one in state.revoked}),
            founded=state.founded,
        )
    except SecurityError as error:
        raise MalformedObject("this issuer's state is damaged") from error


def _keys(state: AuthorityState) -> tuple[Root, IssuerKey]:
    issuer_key = Ed25519PrivateKey.from_private_bytes(state.issuer_key)
    issuer = parse_issuer(state.issuer, state.root)
    overlay_id = OverlayId(issuer.overlay_id)
    root = Root(der=state.root, overlay_id=overlay_id)
    ids = [key_id(issuer_key.public_key())]
    if state.root_key is not None:
        root_key = Ed25519PrivateKey.from_private_bytes(state.root_key)
        root = RootKey(private=root_key, der=state.root, overlay_id=overlay_id)
        ids.append(key_id(root_key.public_key()))
    if ids != [issuer.issuer_id, issuer.root_id][: len(ids)]:
        raise MalformedObject("keys and certificates do not belong together")
    return (
        root,
        IssuerKey(
            private=issuer_key,
            der=state.issuer,
            issuer_id=IssuerId(issuer.issuer_id),
            overlay_id=overlay_id,
        ),
    )


def _hosts(state: AuthorityState) -> dict[PeerId, EnrolledHost]:
    """Those that were enrolled: whoever is on a roster, and what the state lists."""
    members = {
        parse_peer_id(member.peer_id): EnrolledHost(
            sealing_public=member.sealing, leaf_ends_unix_s=None
        )
        for tenant in state.tenants
        for member in tenant.members
    }
    listed = {
        parse_peer_id(host.peer_id): EnrolledHost(
            sealing_public=host.sealing or b"",
            leaf_ends_unix_s=host.leaf_ends_unix_s,
            http_names=granted_names(host.http_names),
            role=host.role,
        )
        for host in state.hosts
    }
    return {**members, **listed}


def _tenant_state(kept: KeptTenant) -> TenantState:
    content = kept.content
    return TenantState(
        tenant_id=content.tenant_id,
        nonce=content.nonce,
        name=content.name,
        epoch=content.epoch,
        version=content.version,
        epoch_key=content.epoch_key,
        chain_secret=content.chain_secret,
        members=_rows(content.members),
        epoch_object=kept.epoch_object,
        object_id=content.object_id,
        public=content.public,
    )


def _kept_tenant(state: TenantState) -> KeptTenant:
    tenant_id = TenantId(state.tenant_id)
    content = EpochContent(
        tenant_id=tenant_id,
        nonce=state.nonce,
        name=TenantName(state.name),
        epoch=state.epoch,
        version=state.version,
        members=MappingProxyType(_keys_of(state.members)),
        epoch_key=state.epoch_key,
        chain_secret=state.chain_secret,
        object_id=state.object_id or object_id_of(state.chain_secret, tenant_id),
        public=state.public,
    )
    return KeptTenant(content=content, epoch_object=state.epoch_object)


def _keys_of(rows: list[RosterMember]) -> dict[PeerId, bytes]:
    return {parse_peer_id(one.peer_id): one.sealing for one in rows}


def _rows(keys: Mapping[PeerId, bytes]) -> list[RosterMember]:
    return [RosterMember(peer_id=peer_id, sealing=sealing) for peer_id, sealing in keys.items()]


def _ticket_row(state: TicketState) -> TicketRow:
    return TicketRow(
        verifier=state.verifier,
        tenants=tuple(TenantId(one) for one in state.tenants),
        expires_unix_s=state.expires_unix_s,
        used_by=None if state.used_by is None else parse_peer_id(state.used_by),
        role=state.role,
        http_names=granted_names(state.http_names),
    )


def _token_state(row: TokenRow) -> TokenState:
    return TokenState(
        token_id=row.token_id,
        tenant_id=row.tenant_id,
        name=row.name,
        scopes=list(row.scopes),
        issued_unix_s=row.issued_unix_s,
        expires_unix_s=row.expires_unix_s,
    )


def _token_row(state: TokenState) -> TokenRow:
    return TokenRow(
        token_id=state.token_id,
        tenant_id=TenantId(state.tenant_id),
        name=state.name,
        scopes=tuple(state.scopes),
        issued_unix_s=state.issued_unix_s,
        expires_unix_s=state.expires_unix_s,
    )
