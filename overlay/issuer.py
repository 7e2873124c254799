"""The issuer's desk: tickets, admissions and tokens, on the host that ran ``rhizome init``.

Every change is stored durably before anybody learns of it (``security/authority.py``).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence

from overlay.address import Address
from overlay.errors import ConfigError, HomeError, OverlayError, RostersUnheard, StorageError
from overlay.gossip.epochs import Epochs, place_of
from overlay.home import Files, HomeFile
from overlay.identity import Identity, store_epoch
from overlay.peers import first_addresses
from overlay.ports import Clock, Entropy
from overlay.principals import DEFAULT_TENANT
from overlay.request import Scope
from overlay.revocation.subject import KnownIds
from security.authority import Authority
from security.authority_state import authority_from_bytes, authority_to_bytes
from security.certificate import LEAF_LIFETIME_S, IssuerId, IssuerKey
from security.enrolment import refuse_join
from security.epoch import EpochHeader
from security.errors import HostUnknown, LimitExceeded, NotItsIssuer, Revoked, SecurityError
from security.hosts import HostRole
from security.http_certificate import HttpCertificate, make_http_certificate
from security.http_request import issue_http_certificate
from security.judge import is_over
from security.ledger import IssuedToken, TokenRow
from security.peer_id import PeerId
from security.renewal import (
    CHALLENGE_REQUEST,
    Challenges,
    challenge_answer,
    make_renewal,
    refuse_renewal,
    verify_renew_request,
    with_reason,
)
from security.revocation import Revocation, RevocationSet
from security.root_bundle import ROOTS_REQUEST, encode_bundles
from security.roster import is_behind
from security.signed import Kind, claims_kind
from security.tenant import TenantId
from security.ticket import ADDRESSES_MAX, Ticket
from security.trust import Trust

log = logging.getLogger(__name__)

AGAIN_S = 60.0
"""A host that asks again within this, or a twentieth of a life, gets the same certificate."""


class IssuerDesk:
    """The authority of a running peer.

    ``on_epoch`` is told of each new EPOCH object, ``on_revoked`` of statements that this issuer has
    signed, and of its certificate; ``revocations`` are those that the peer knows, ``epochs`` the
    EPOCH objects, ``heard`` whether others had their say on these. ``trust`` is what that peer
    believes now. ``addresses`` are those of its
    enrolment listener, once that listens; ``tell_enrolment`` is told them. ``statement_of`` gives
    the statement that revokes an id.
    """

    def __init__(
        self,
        home: Files,
        identity: Identity,
        clock: Clock,
        entropy: Entropy,
        on_epoch: Callable[[bytes], None],
        revocations: Callable[[], RevocationSet] = RevocationSet,
        on_revoked: Callable[[Iterable[bytes], Sequence[bytes]], None] = lambda _, __: None,
        *,
        leaf_s: float = LEAF_LIFETIME_S,
        epochs: Callable[[], Epochs | None] = lambda: None,
        heard: Callable[[], bool] = lambda: True,
        trust: Callable[[], Trust] | None = None,
        tell_enrolment: Callable[[IssuerKey, Sequence[str]], None] = lambda _, __: None,
        statement_of: Callable[[str], bytes | None] = lambda _: None,
    ) -> None:
        self._home = home
        self._tell_enrolment = tell_enrolment
        self._statement_of = statement_of
        self._epochs = epochs
        self._heard = heard
        self._identity = identity
        self._trust = trust or (lambda: self._identity.trust)
        self._clock = clock
        self._entropy = entropy
        self._on_epoch = on_epoch
        self._revocations = revocations
        self._leaf_s = leaf_s
        self._challenges = Challenges(entropy.secret)
        self._made: dict[PeerId, tuple[float, bytes]] = {}
        self.addresses: tuple[Address, ...] = ()
        self._on_revoked = on_revoked
        self._authority = authority_from_bytes(home.need(HomeFile.AUTHORITY))

    def say_again(self, orphaned: Iterable[Revocation] = ()) -> None:
        """Tells its peer all that it has signed: when the process died some may not have come.

        It signs what other issuers have revoked whom no root in force has signed: a host that joins
        from now on would not believe them.
        """
        self._sign_anew(orphaned)
        for epoch in self._authority.epochs:
            self._on_epoch(epoch)
        try:
            self._on_revoked(self._authority.revoked.values(), [self._authority.issuer.der])
        except (SecurityError, OverlayError) as error:
            log.warning("not all that this issuer has revoked is enforced: %s", error)

    def _sign_anew(self, orphaned: Iterable[Revocation]) -> None:
        authority = self._authority
        try:
            for one in orphaned:
                authority, _ = authority.revoke(one.id, self._clock.unix_s(), reason=one.reason)
            if authority is not self._authority:
                self._store(authority)
        except (SecurityError, OverlayError) as error:
            log.warning("what issuers of a former root have revoked is not signed anew: %s", error)

    def listens_at(self, addresses: Sequence[Address]) -> None:
        """Where its enrolment listener is from now on: all hosts are told."""
        self.addresses = tuple(addresses)
        self._tell_enrolment(self._authority.issuer, self._told_addresses())

    def _told_addresses(self) -> list[str]:
        return [str(address) for address in first_addresses(self.addresses, ADDRESSES_MAX)]

    def adopt(self, identity: Identity) -> None:
        """This host has another certificate."""
        self._identity = identity

    @property
    def authority(self) -> Authority:
        """The issuer's state as it is stored."""
        return self._authority

    def tenant_names(self) -> list[str]:
        """Every tenant that this issuer keeps and that is not public."""
        kept = self._authority.tenants.values()
        return sorted(each.content.name for each in kept if not each.content.public)

    def usual_tenant(self) -> str:
        """The tenant that is meant where none is named: the only one, or ``default``.

        Raises:
            ConfigError: When there are several and none is called so.
        """
        names = self.tenant_names()
        if len(names) == 1:
            return names[0]
        if DEFAULT_TENANT not in names:
            there = ", ".join(sorted(self._authority.tenant_names)) or "none"
            raise ConfigError(f"name a tenant with --tenant; there is {there}")
        return DEFAULT_TENANT

    def invite(
        self,
        tenants: Sequence[str],
        addresses: Sequence[Address],
        ttl_s: float,
        *,
        role: HostRole = HostRole.PEER,
        http_names: Sequence[str] = (),
    ) -> Ticket:
        """Makes a one-use ticket.

        Raises:
            SecurityError: With what is wrong.
            HomeError, StorageError: As ``catch_up``, which voids tickets; or it cannot be stored.
        """
        self.catch_up()
        authority, ticket = self._authority.invite(
            tenants or self.tenant_names(),
            [str(address) for address in first_addresses(addresses, ADDRESSES_MAX)],
            ttl_s,
            self._entropy.secret,
            self._clock.unix_s(),
            role=role,
            http_names=http_names,
        )
        self._store(authority)
        return ticket

    def create_token(
        self,
        tenant: str,
        name: str,
        ttl_s: float,
        scopes: Sequence[str] = (Scope.INFER.value,),
    ) -> IssuedToken:
        """Makes a client's token.

        Raises:
            ConfigError: When there is no such scope.
            SecurityError: With what else is wrong.
        """
        known = {scope.value for scope in Scope}
        if unknown := sorted(set(scopes) - known):
            raise ConfigError(
                f"no such scope: {unknown[0][:40]!r}; there is {', '.join(sorted(known))}"
            )
        authority, token = self._authority.issue_token(
            self._authority.tenant_id(tenant),
            name,
            ttl_s=ttl_s,
            scopes=sorted(set(scopes)),
            secret=self._entropy.secret,
            now_unix_s=self._clock.unix_s(),
        )
        self._store(authority)
        return token

    def tokens(self) -> list[TokenRow]:
        """Tokens that this issuer has made and that have not ended, oldest first."""
        now_unix_s = self._clock.unix_s()
        rows = self._authority.tokens.values()
        return [row for row in rows if now_unix_s < row.expires_unix_s]

    def enrolled(self) -> list[PeerId]:
        """Hosts whose certificates it would renew: they can be there."""
        now_unix_s = self._clock.unix_s()
        return [id_ for id_, host in self._authority.hosts.items() if host.may_renew(now_unix_s)]

    def known_ids(self, peers: Iterable[str]) -> KnownIds:
        """What can be revoked here by its id; ``peers`` are hosts that its peer knows."""
        authority = self._authority
        joined = {row.used_by for row in authority.tickets.values() if row.used_by is not None}
        return KnownIds(
            trust=self._trust(),
            peers={*peers, *joined, self._identity.peer_id},
            tokens={row.token_id: row.name for row in self.tokens()},
            tickets=authority.tickets.keys(),
            tenants=authority.tenants.keys(),
        )

    @property
    def issuer_id(self) -> IssuerId:
        """This issuer's own id."""
        return self._authority.issuer.issuer_id

    def tenant_name(self, tenant_id: TenantId) -> str:
        """What a tenant that is kept here is called; its id where it is not any more."""
        kept = self._authority.tenants.get(tenant_id)
        return tenant_id if kept is None else kept.content.name

    def revoke(self, id_: str, reason: str) -> None:
        """Signs that something is revoked, stores that, and has this host's peer enforce it.

        Raises:
            SecurityError: With what is wrong.
            StorageError: When it cannot be stored; nothing is revoked then.
        """
        authority, statement = self._authority.revoke(id_, self._clock.unix_s(), reason=reason)
        self._store(authority)
        self._on_revoked([statement], [authority.issuer.der])

    def http_certificate(self, names: Sequence[str]) -> HttpCertificate:
        """A certificate for this host's HTTP face. Raises SecurityError with what is wrong."""
        return make_http_certificate(
            self._authority.issuer, names, self._entropy.secret, self._clock.unix_s()
        )

    def certify_http(self, peer_id: PeerId, request: bytes) -> bytes:
        """Answers a host that has proved its key: the certificate of its HTTP face.

        Raises:
            SecurityError: As ``issue_http_certificate``.
        """
        return issue_http_certificate(
            self._authority.issuer,
            self._authority.hosts,
            peer_id,
            request,
            self._entropy.secret,
            self._clock.unix_s(),
            self._revocations(),
            lifetime_s=min(self._leaf_s, LEAF_LIFETIME_S),
        )

    async def answer(self, request: bytes, address: Address) -> bytes:
        """Answers whoever asks the enrolment listener."""
        if request == CHALLENGE_REQUEST:
            return challenge_answer(self._challenges.make(self._clock.now_s()))
        if request == ROOTS_REQUEST:
            return encode_bundles(self._trust().roots.bundles)
        if claims_kind(request, Kind.RENEW):
            return await self._renew_late(request)
        return await self.admit(request, address)

    async def _renew_late(self, request: bytes) -> bytes:
        """For a host whose certificate may have ended: it signs a challenge of ours."""
        try:
            asked = verify_renew_request(request, self._authority.issuer)
            if asked.peer_id not in self._authority.hosts:
                raise HostUnknown("this issuer has not enrolled that host")
            self._challenges.take(asked.challenge, self._clock.now_s())
            self._check_over(asked.before)
        except SecurityError as error:
            log.info("a request for a certificate is refused: %s", error)
            return refuse_renewal(error)
        answer = await self.renew(asked.peer_id, asked.sealing)
        revoked = None if asked.before is None else self._statement_of(asked.before)
        return answer if revoked is None else with_reason(answer, revoked)

    def _check_over(self, before: IssuerId | None) -> None:
        """A host whose own issuer is in force is that one's: it would not take another's answer."""
        issuer = None if before is None else self._trust().issuers.get(before)
        if issuer is not None and not is_over(
            issuer, now_unix_s=self._clock.unix_s(), revocations=self._revocations()
        ):
            raise NotItsIssuer("that host's own issuer is in force")

    async def renew(self, peer_id: PeerId, sealing_shown: bytes = b"") -> bytes:
        """The answer to a host that has proved its key; what it gets is stored before that.

        ``sealing_shown`` is the sealing key that it has signed, where it has.

        One that asks again at once, as its answer may have been lost, gets the same: no host makes
        this one sign and write without end.
        """
        now_s, revoked = self._clock.now_s(), self._revocations().revokes(peer_id)
        made_s, answer = self._made.get(peer_id, (-math.inf, b""))
        if now_s - made_s < min(AGAIN_S, self._leaf_s / 20) and not revoked:
            return answer
        try:
            if peer_id == self._identity.peer_id:
                authority, leaf = self._renew_here()
            else:
                authority, leaf = self._authority.renew(
                    peer_id,
                    self._entropy.secret,
                    self._clock.unix_s(),
                    self._revocations(),
                    lifetime_s=self._leaf_s,
                    sealing_shown=sealing_shown,
                )
            self._store(authority)
        except SecurityError as error:
            log.warning("the certificate of %s is not renewed: %s", peer_id, error)
            return refuse_renewal(error)
        except (StorageError, HomeError) as error:
            log.warning("the certificate of %s is not renewed: %s", peer_id, error)
            return refuse_renewal(None)
        answer = make_renewal(authority.issuer, leaf, self._told_addresses())
        lately = {id_: one for id_, one in self._made.items() if now_s - one[0] < AGAIN_S}
        self._made = {**lately, peer_id: (now_s, answer)}
        return answer

    def _renew_here(self) -> tuple[Authority, bytes]:
        """For this host itself, however long it was off: nobody else could. No roster changes."""
        revoked, issuer_id = self._revocations(), self._authority.issuer.issuer_id
        if revoked.revokes(self._identity.peer_id) or revoked.revokes(issuer_id):
            raise Revoked("this host or its issuer is revoked")
        keys = self._identity.keys
        return self._authority.certify(
            keys.peer_id,
            keys.sealing_public,
            self._entropy.secret,
            self._clock.unix_s(),
            lifetime_s=self._leaf_s,
        )

    async def admit(self, request: bytes, address: Address) -> bytes:  # noqa: ARG002 - for its log
        """Answers a host that wants to join; the ticket is burnt before the answer leaves."""
        try:
            self.catch_up_with_others()
            authority, admittance = self._authority.admit(
                request,
                self._entropy.secret,
                self._clock.unix_s(),
                self._revocations(),
                lifetime_s=self._leaf_s,
            )
            self._store(authority)
        except (LimitExceeded, RostersUnheard, StorageError, HomeError) as error:
            log.warning("nobody can join at present: %s", error)
            return refuse_join(None)
        except SecurityError as error:
            log.info("a request to join is refused: %s", error)
            return refuse_join(error)
        self._tell(admittance.grant.epochs)
        kept, joined = authority.tenants.values(), admittance.grant.peer_id
        if any(each.content.public and joined not in each.content.members for each in kept):
            log.warning("a public tenant is full: %s has joined and is no member of it", joined)
        return admittance.answer

    def catch_up_with_others(self) -> None:
        """Before a roster changes: as ``catch_up``, once others have had their say.

        A state that is an old copy would sign a number that it has used before, for another roster.

        Raises:
            RostersUnheard: When others are known and none was heard since the start.
            HomeError, StorageError: As ``catch_up``.
        """
        if not self._heard():
            raise RostersUnheard(
                "this issuer has heard no other host since it started, and one may know newer "
                "rosters: start or connect one ('rhizome status' names them), or 'rhizome revoke' "
                "those that are gone for good"
            )
        self.catch_up()

    def catch_up(self) -> None:
        """Goes on from what the overlay knows, where this issuer was restored from an older copy.

        Else what it signs next would be older than what its members have, and change nothing.

        Raises:
            HomeError: When there is newer news of a tenant that this host cannot read.
            StorageError: When it cannot be stored.
        """
        epochs = self._epochs()
        if epochs is None:
            return
        mine = {place_of(tenant.header): tenant for tenant in epochs.mine.values()}
        for header, data in epochs.objects():
            if not self._is_behind(header, data):
                continue
            tenant = mine.get(place_of(header))
            if tenant is None:
                raise HomeError(
                    "this issuer's state is an old copy, and this host is no member of a tenant "
                    "that has changed since: restore a newer copy of the folder"
                )
            log.warning(
                "this issuer's state is an old copy: it goes on from a newer roster, and the "
                "tickets of the copy that it takes for unused are void; HTTP names are granted as "
                "they were then ('rhizome ca http-name')"
            )
            authority, again = self._authority.catch_up(tenant, self._entropy.secret)
            self.store(authority, [again])

    def _is_behind(self, header: EpochHeader, data: bytes) -> bool:
        kept = self._authority.tenants.values()
        return is_behind(kept, self._authority.issuer.issuer_id, header, data)

    def store(self, authority: Authority, epochs: Sequence[bytes]) -> None:
        """Takes a next state, with these new EPOCH objects.

        Raises:
            StorageError: When it cannot be stored; then the state is as it was.
        """
        self._store(authority)
        self._tell(epochs)

    def _tell(self, epochs: Sequence[bytes]) -> None:
        """Tells of what is in the stored state; at the next start that is told again."""
        for epoch in epochs:
            self._on_epoch(epoch)
            try:
                store_epoch(self._home, epoch, self._identity.trust, self._clock.unix_s())
            except (StorageError, HomeError) as error:
                log.warning("a tenant's new roster is told, and not yet kept apart: %s", error)

    def _store(self, authority: Authority) -> None:
        self._home.write(HomeFile.AUTHORITY, authority_to_bytes(authority))
        self._authority = authority
