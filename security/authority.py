"""An issuer's state: keys, the tenants it keeps, the tickets it has given out.

Rules
1. A value, never changed: each operation returns the next state beside its result. The caller
   stores that state durably first (``to_bytes``), then uses it and lets the result out. A crash in
   between has told nobody anything, so no ticket admits two hosts and no two EPOCH objects of one
   (tenant, epoch, version) are ever seen.
2. A ticket is shown once; what is kept of it can check it and cannot make it.
3. The EPOCH object of a tenant is made when its roster changes and kept as it was signed.
4. ``to_bytes`` is secret: it holds the issuer's key, and the root's unless that is kept elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from security.certificate import (
    LEAF_LIFETIME_S,
    Issuer,
    IssuerKey,
    Root,
    RootKey,
    issue_leaf,
    make_issuer,
    make_root,
    renew_issuer,
)
from security.enrolment import Join, make_admission, verify_join_request
from security.epoch import EpochContent, TenantEpoch, make_epoch
from security.errors import (
    LimitExceeded,
    Revoked,
    TenantExists,
    UnknownTenant,
    UntrustedIssuer,
)
from security.hosts import (
    Admittance,
    EnrolledHost,
    Grant,
    HostRole,
    good_host,
    sealing_to_renew,
    with_host,
    with_http_names,
)
from security.keys import Secret
from security.ledger import IssuedToken, Ledger, TokenRow, make_token, with_token
from security.peer_id import PeerId
from security.revocation import REVOKED_MAX, RevocationSet, make_revocation
from security.roster import (
    KeptTenant,
    caught_up,
    first_content,
    rotated,
    with_member,
    without_member,
)
from security.tenant import NONCE_BYTES, TenantId, TenantName, tenant_id_of, tenant_name
from security.tenant_keys import SECRET_BYTES
from security.ticket import Ticket, TicketRow, check_ticket, usable_ticket, with_ticket
from security.trust import Trust

TENANTS_MAX = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """An issuer. Every method that changes something returns the next state first.

    ``hosts`` are those that it has enrolled, ``tokens`` those that it has made and that have not
    ended, ``revoked`` the statements that it has signed, by what they revoke. ``founded`` says that
    the overlay began with this one: there were no other hosts then.
    """

    root: Root
    issuer: IssuerKey
    tenants: Mapping[TenantId, KeptTenant]
    tickets: Mapping[str, TicketRow]
    hosts: Mapping[PeerId, EnrolledHost] = field(default_factory=lambda: MappingProxyType({}))
    tokens: Ledger = field(default_factory=lambda: MappingProxyType({}))
    revoked: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))
    founded: bool = True

    @classmethod
    def create(cls, secret: Secret, now_unix_s: float, tenants: Sequence[str]) -> Authority:
        """Begins an overlay with these tenants, which have no members yet.

        Raises:
            LimitExceeded: when a name is none.
            TenantExists: when a name comes twice.
        """
        root = make_root(secret, now_unix_s)
        authority = cls(
            root=root,
            issuer=make_issuer(root, secret, now_unix_s),
            tenants=MappingProxyType({}),
            tickets=MappingProxyType({}),
        )
        for name in tenants:
            authority, _ = authority.create_tenant(name, secret)
        return authority

    @classmethod
    def joined(cls, root: Root, issuer: IssuerKey) -> Authority:
        """Another issuer of an overlay that others founded: it keeps nothing yet."""
        return cls(
            root=root,
            issuer=issuer,
            tenants=MappingProxyType({}),
            tickets=MappingProxyType({}),
            founded=False,
        )

    @property
    def trust(self) -> Trust:
        return Trust.of(self.root.der, [self.issuer.der])

    @property
    def tenant_names(self) -> Mapping[TenantName, TenantId]:
        return MappingProxyType({kept.content.name: id_ for id_, kept in self.tenants.items()})

    @property
    def epochs(self) -> tuple[bytes, ...]:
        """The present EPOCH object of every tenant."""
        return tuple(kept.epoch_object for kept in self.tenants.values())

    @property
    def holds_root(self) -> bool:
        """Whether the root's key is in this state."""
        return isinstance(self.root, RootKey)

    def without_root(self) -> Authority:
        """This issuer without the root's key, which is kept elsewhere."""
        return replace(self, root=self.root.public_part)

    def with_new_certificate(self, root: RootKey, secret: Secret, now_unix_s: float) -> Authority:
        """The same issuer, which lasts as long as a new one; under another root without its key.

        Raises:
            UntrustedIssuer: when that is the root of another overlay.
        """
        under = self.root if root.der == self.root.der else root.public_part
        return replace(self, root=under, issuer=renew_issuer(root, self.issuer, secret, now_unix_s))

    def with_certificate(self, issuer: Issuer, root: Root) -> Authority:
        """The same issuer with a certificate that a root has made.

        Raises:
            UntrustedIssuer: when it is another issuer's.
        """
        if issuer.issuer_id != self.issuer.issuer_id:
            raise UntrustedIssuer("that certificate is another issuer's")
        under = self.root if root.der == self.root.der else root
        return replace(self, root=under, issuer=replace(self.issuer, der=issuer.der))

    def tenant_id(self, name: str) -> TenantId:
        """The tenant of this name.

        Raises:
            UnknownTenant: when there is none.
        """
        found = self.tenant_names.get(TenantName(name))
        if found is None:
            known = ", ".join(sorted(self.tenant_names)) or "none"
            raise UnknownTenant(f"no tenant {name[:64]!r} is kept here; there is {known}")
        return found

    def create_tenant(
        self, name: str, secret: Secret, *, public: bool = False
    ) -> tuple[Authority, TenantId]:
        """Makes a tenant in its first epoch: empty, or with all unrevoked hosts if ``public``.

        Hosts that have not shown a sealing key yet are left out.

        Raises:
            LimitExceeded: when the name is none, or there are too many tenants or hosts.
            TenantExists: when the name is taken.
        """
        checked = tenant_name(name)
        if checked in self.tenant_names:
            raise TenantExists(f"there is a tenant {checked!r} already")
        if len(self.tenants) >= TENANTS_MAX:
            raise LimitExceeded(f"an issuer keeps at most {TENANTS_MAX} tenants")
        nonce = secret(NONCE_BYTES)
        tenant_id = tenant_id_of(self.issuer.issuer_id, nonce)
        content = first_content(tenant_id, nonce, checked, secret, public=public)
        for peer_id, host in self.hosts.items() if public else ():
            if host.sealing_public and peer_id not in self.revoked:
                content = with_member(content, peer_id, host.sealing_public)
        return self._with_tenant(content, secret), tenant_id

    def add_member(
        self, tenant_id: TenantId, peer_id: PeerId, sealing_public: bytes, secret: Secret
    ) -> tuple[Authority, bytes]:
        """Puts a host on a tenant's roster: same epoch, next version.

        Returns:
            The next state, and the EPOCH object to gossip; both as they were if the host is on the
            roster with that key already.

        Raises:
            UnknownTenant: when no such tenant is kept here.
            MalformedObject: when nothing can be sealed to that key.
            LimitExceeded: when the roster is full.
        """
        kept = self._kept(tenant_id)
        if kept.content.members.get(peer_id) == sealing_public:
            return self, kept.epoch_object
        return self._changed(with_member(kept.content, peer_id, sealing_public), secret)

    def host(self, peer_id: PeerId) -> EnrolledHost:
        """A host that this issuer has enrolled and not revoked. Raises as ``good_host``."""
        return good_host(self.hosts, self.revoked, peer_id)

    def remove_member(
        self, tenant_id: TenantId, peer_id: PeerId, secret: Secret
    ) -> tuple[Authority, bytes]:
        """Takes a host off a tenant's roster: a new epoch, whose key it does not get.

        Returns:
            The next state, and the EPOCH object to gossip.

        Raises:
            UnknownTenant: when no such tenant is kept here.
            NotAMember: when the host is not on the roster.
        """
        return self._changed(without_member(self._kept(tenant_id).content, peer_id, secret), secret)

    def rotate(
        self, tenant_id: TenantId, secret: Secret, *, hard: bool = False
    ) -> tuple[Authority, bytes]:
        """Begins a new epoch of a tenant; ``hard``: with new block names and cache salts as well.

        Returns:
            The next state, and the EPOCH object to gossip.

        Raises:
            UnknownTenant: when no such tenant is kept here.
        """
        return self._changed(rotated(self._kept(tenant_id).content, secret, hard=hard), secret)

    def enrol(
        self,
        peer_id: PeerId,
        sealing_public: bytes,
        tenants: Sequence[TenantId],
        secret: Secret,
        now_unix_s: float,
        *,
        lifetime_s: float = LEAF_LIFETIME_S,
        role: HostRole | None = None,
    ) -> tuple[Authority, Grant]:
        """Makes a host's certificate and puts it on these rosters and on those of public tenants.

        It has proved its key. Public tenants that are full stay as they are.

        Raises:
            UnknownTenant, LimitExceeded: as ``add_member``; or too many hosts are enrolled.
        """
        authority = self
        epochs = []
        kept = self.tenants.items()
        public = [id_ for id_, one in kept if one.content.public and one.has_room(peer_id)]
        for tenant_id in dict.fromkeys([*tenants, *public]):
            authority, epoch_object = authority.add_member(
                tenant_id, peer_id, sealing_public, secret
            )
            epochs.append(epoch_object)
        authority, leaf = authority.certify(
            peer_id, sealing_public, secret, now_unix_s, lifetime_s=lifetime_s, role=role
        )
        grant = Grant(
            peer_id=peer_id,
            leaf=leaf,
            issuer=self.issuer.der,
            root=self.root.der,
            epochs=tuple(epochs),
        )
        return authority, grant

    def certify(
        self,
        peer_id: PeerId,
        sealing_public: bytes,
        secret: Secret,
        now_unix_s: float,
        *,
        lifetime_s: float = LEAF_LIFETIME_S,
        role: HostRole | None = None,
    ) -> tuple[Authority, bytes]:
        """Makes a host's certificate; its rosters stay as they are. Raises LimitExceeded."""
        leaf = issue_leaf(self.issuer, peer_id, secret, now_unix_s, lifetime_s=lifetime_s)
        hosts = with_host(self.hosts, leaf, sealing_public, now_unix_s, role)
        return replace(self, hosts=hosts), leaf

    def renew(
        self,
        peer_id: PeerId,
        secret: Secret,
        now_unix_s: float,
        revocations: RevocationSet,
        *,
        lifetime_s: float = LEAF_LIFETIME_S,
        sealing_shown: bytes = b"",
    ) -> tuple[Authority, bytes]:
        """Makes another certificate for a host that was enrolled. It has proved its key.

        ``sealing_shown`` is the sealing key that it has signed: kept where there is none so far.

        Returns:
            The next state, to be stored before the certificate is shown; and the certificate.

        Raises:
            HostUnknown: when this issuer has not enrolled it, or knows no sealing key of it.
            Revoked: when the host or this issuer is revoked.
            Expired: when its last certificate ended too long ago.
        """
        if revocations.revokes(peer_id) or revocations.revokes(self.issuer.issuer_id):
            raise Revoked("the host or its issuer is revoked")
        sealing = sealing_to_renew(self.hosts.get(peer_id), sealing_shown, now_unix_s)
        return self.certify(peer_id, sealing, secret, now_unix_s, lifetime_s=lifetime_s)

    def invite(
        self,
        tenants: Sequence[str],
        addresses: Sequence[str],
        ttl_s: float,
        secret: Secret,
        now_unix_s: float,
        *,
        role: HostRole = HostRole.PEER,
        http_names: Sequence[str] = (),
    ) -> tuple[Authority, Ticket]:
        """Makes a one-use ticket.

        Args:
            tenants: names of the tenants that the new host shall belong to.
            addresses: of the enrolment port, as the new host can reach it.
            ttl_s: how long the ticket is good.
            secret: where its secret comes from.
            now_unix_s: the time.
            role: what the new host is invited for.
            http_names: which are granted to it.

        Returns:
            The next state, and the ticket: it cannot be shown again.

        Raises:
            UnknownTenant: when no tenant of that name is kept here.
            LimitExceeded, MalformedName: when a ticket cannot hold that, or too many are out.
        """
        check_ticket(addresses, tenants, ttl_s)
        ids = tuple(sorted({self.tenant_id(name) for name in tenants}))
        ticket = Ticket(
            overlay_id=self.root.overlay_id,
            root=self.root.der,
            issuer_id=self.issuer.issuer_id,
            secret=secret(SECRET_BYTES),
            expires_unix_s=int(now_unix_s + ttl_s),
            addresses=tuple(addresses),
            tenants=tuple(self.tenants[id_].content.name for id_ in ids),
            role=role,
        )
        tickets = with_ticket(self.tickets, TicketRow.of(ticket, ids, http_names), now_unix_s)
        return replace(self, tickets=tickets), ticket

    def admit(
        self,
        request: bytes,
        secret: Secret,
        now_unix_s: float,
        revocations: RevocationSet,
        *,
        lifetime_s: float = LEAF_LIFETIME_S,
    ) -> tuple[Authority, Admittance]:
        """Redeems a ticket: checks the request, burns the ticket, makes what the host gets.

        The host that burnt it may ask again with the same keys until the ticket ends, as its answer
        may have been lost: it gets what it is due, and the rosters stay as they are.

        Returns:
            The next state, to be stored before ``answer`` is sent; after that it is known that
            the ticket is burnt, whatever happens.

        Raises:
            Malformed, UnsupportedVersion, WrongOverlay, UntrustedIssuer, BadSignature: a bad
                request, as ``verify_join_request``.
            TicketUnknown, TicketUsed, Expired, Revoked: the ticket is not good.
        """
        join = verify_join_request(request, self.issuer)
        row = usable_ticket(
            self.tickets, join.ticket_id, now_unix_s, lambda row: self._is_again(row, join)
        )
        if any(map(revocations.revokes, (join.ticket_id, join.peer_id, self.issuer.issuer_id))):
            raise Revoked("the ticket, the host or the issuer is revoked")
        burnt = {**self.tickets, join.ticket_id: replace(row, used_by=join.peer_id, http_names=())}
        authority, grant = replace(self, tickets=MappingProxyType(burnt)).enrol(
            join.peer_id,
            join.sealing_public,
            row.tenants,
            secret,
            now_unix_s,
            lifetime_s=lifetime_s,
            role=row.role,
        )
        answer = make_admission(self.issuer, join.ticket_id, grant.leaf, grant.epochs)
        hosts = with_http_names(authority.hosts, join.peer_id, row.http_names, remove=False)
        return replace(authority, hosts=hosts), Admittance(answer=answer, grant=grant)

    def _is_again(self, row: TicketRow, join: Join) -> bool:
        """Whether the host that used the ticket asks once more, with the keys that it had then."""
        rosters = [self._kept(tenant_id).content.members for tenant_id in row.tenants]
        return row.used_by == join.peer_id and all(
            members.get(join.peer_id) == join.sealing_public for members in rosters
        )

    def issue_token(
        self,
        tenant_id: TenantId,
        name: str,
        *,
        ttl_s: float,
        scopes: Sequence[str],
        secret: Secret,
        now_unix_s: float,
    ) -> tuple[Authority, IssuedToken]:
        """Makes a client's token. What is kept of it can name it and cannot make it.

        Returns:
            The next state, and the token: it cannot be shown again.

        Raises:
            UnknownTenant: when no such tenant is kept here.
            LimitExceeded: when a field is over its bound, or too many tokens are good.
        """
        self._kept(tenant_id)
        issued = make_token(
            self.issuer,
            tenant_id,
            name,
            ttl_s=ttl_s,
            scopes=scopes,
            secret=secret,
            now_unix_s=now_unix_s,
        )
        row = TokenRow.of(issued, name, scopes, now_unix_s)
        tokens = with_token(self.tokens, row, now_unix_s, self.revoked)
        return replace(self, tokens=tokens), issued

    def revoke(self, id_: str, now_unix_s: float, *, reason: str = "") -> tuple[Authority, bytes]:
        """Signs that a peer, token, ticket or issuer of this id is revoked, for good.

        Returns:
            The next state and the statement; both as they were if this issuer has said so before.

        Raises:
            LimitExceeded: when the id or the reason is too long, or it has signed too many.
        """
        before = self.revoked.get(id_)
        if before is not None:
            return self, before
        if len(self.revoked) >= REVOKED_MAX:
            raise LimitExceeded(f"an issuer signs at most {REVOKED_MAX} revocations")
        statement = make_revocation(self.issuer, id_, now_unix_s, reason=reason)
        return replace(self, revoked=MappingProxyType({**self.revoked, id_: statement})), statement

    def catch_up(self, known: TenantEpoch, secret: Secret) -> tuple[Authority, bytes]:
        """Goes on from newer news of a tenant, after this state was restored from an older copy.

        Tickets that it takes for unused are void: they may have been used since.

        Returns:
            The next state, and the EPOCH object to gossip: newer than the news.

        Raises:
            UnknownTenant: when no such tenant is kept here.
        """
        content = self._kept(known.tenant_id).content
        used = {id_: row for id_, row in self.tickets.items() if row.used_by is not None}
        authority, data = self._changed(caught_up(content, known, secret), secret)
        return replace(authority, tickets=MappingProxyType(used)), data

    def _kept(self, tenant_id: TenantId) -> KeptTenant:
        kept = self.tenants.get(tenant_id)
        if kept is None:
            raise UnknownTenant("that tenant is not kept here")
        return kept

    def _changed(self, content: EpochContent, secret: Secret) -> tuple[Authority, bytes]:
        authority = self._with_tenant(content, secret)
        return authority, authority.tenants[content.tenant_id].epoch_object

    def _with_tenant(self, content: EpochContent, secret: Secret) -> Authority:
        kept = KeptTenant(content=content, epoch_object=make_epoch(self.issuer, content, secret))
        return replace(self, tenants=MappingProxyType({**self.tenants, content.tenant_id: kept}))
