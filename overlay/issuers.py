"""More issuers than the one that founded the overlay: how a host becomes one, and who is one.

``request_here`` on the host, ``answer`` where the root's key is, ``install`` on the host again.
Each can be run again after a crash at any point, and does what is lacking then.
"""

from __future__ import annotations

import contextlib

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from overlay.believed import believed_in
from overlay.errors import HomeError
from overlay.home import Home, HomeFile
from overlay.identity import load_identity, store_renewed
from overlay.ports import Clock, Entropy
from overlay.rotation import check_signs, roots_in
from security.authority import Authority
from security.authority_state import authority_from_bytes, authority_to_bytes
from security.certificate import (
    Issuer,
    IssuerId,
    IssuerKey,
    Root,
    RootKey,
    parse_leaf,
    parse_root,
)
from security.certificate_form import key_id
from security.errors import UntrustedIssuer
from security.hosts import HostRole
from security.issuer_request import (
    IssuerRequest,
    answer_issuer_request,
    issuer_key_from_bytes,
    issuer_key_to_bytes,
    make_issuer_request,
    open_issuer_answer,
    open_issuer_request,
)
from security.keys import HostKeys
from security.peer_id import PeerId
from security.root_bundle import Roots
from security.trust import Trust


class IssuerLine(msgspec.Struct, frozen=True, kw_only=True):
    """One issuer that a host knows. ``hosts`` is None for those of other hosts.

    ``mine``: this host is its host; ``renews_me``: it made this host's certificate.
    """

    issuer_id: str
    ends_unix_s: int
    mine: bool
    renews_me: bool
    revoked: bool
    ended: bool
    hosts: int | None


def request_here(home: Home, entropy: Entropy) -> tuple[str, IssuerId]:
    """This host's request to become an issuer, or to have its issuer certified again.

    The new issuer's key is stored before anybody sees the request, and is the same next time.

    Raises:
        HomeError, StorageFull: When this is no host's folder, or it cannot be written.
        SecurityError: When what it holds is damaged.
    """
    identity = load_identity(home)
    stored = home.read(HomeFile.AUTHORITY)
    if stored is not None:
        private = authority_from_bytes(stored).issuer.private
    else:
        private = _kept_issuer_key(home, entropy)
    request = make_issuer_request(identity.keys, identity.trust.overlay_id, private)
    return request, IssuerId(key_id(private.public_key()))


def _kept_issuer_key(home: Home, entropy: Entropy) -> Ed25519PrivateKey:
    stored = home.read(HomeFile.ISSUER_KEY)
    if stored is not None:
        return issuer_key_from_bytes(stored)
    private = Ed25519PrivateKey.from_private_bytes(entropy.secret(32))
    home.write(HomeFile.ISSUER_KEY, issuer_key_to_bytes(private))
    return private


def check_request(text: str, root: RootKey, home: Home | None, *, any_host: bool) -> IssuerRequest:
    """A request that the root may answer.

    Args:
        text: What the host has printed.
        root: With its key.
        home: Of the host where that is, if it is one.
        any_host: Whether a host will do that was not invited to be an issuer.

    Raises:
        SecurityError: When it is no request for this overlay, or not signed as it should be.
        HomeError: When it is this host's own, or of a host that was invited to be a peer, or not
            by this issuer, or the host or its issuer is revoked, or that root is not the newest in
            force; the message says what to do.
        StorageError: When it cannot be read what is revoked.
    """
    request = open_issuer_request(text, root.overlay_id)
    if home is None or home.read(HomeFile.ROOT) is None:
        return request
    check_signs(roots_in(home), root)
    keys, stored = home.read(HomeFile.HOST_KEYS), home.read(HomeFile.AUTHORITY)
    if keys is not None and HostKeys.from_bytes(keys).peer_id == request.peer_id:
        raise HomeError(f"that request is this host's own{_INSTEAD[stored is not None]}")
    authority = None if stored is None else authority_from_bytes(stored)
    _check_revoked(home, authority, request)
    if authority is not None and not any_host:
        _check_role(authority, request.peer_id)
    return request


_INSTEAD = {
    True: ", which has an issuer: 'rhizome ca issuer renew' has it certified again, and a second "
    "issuer belongs on another host",
    False: ": run 'rhizome ca issuer add' with --root-key on another one, as the root's key does "
    "not belong beside an issuer's",
}


def _check_revoked(home: Home, authority: Authority | None, request: IssuerRequest) -> None:
    """What any issuer has revoked, as far as this host knows, is made no issuer."""
    _, known = believed_in(home, load_identity(home).trust)
    own = {} if authority is None else authority.revoked
    for what, id_ in (("host", request.peer_id), ("issuer", request.issuer_id)):
        if known.revokes(id_) or id_ in own:
            raise HomeError(f"the {what} {id_} is revoked: let the owner join anew and ask again")


def _check_role(authority: Authority, peer_id: PeerId) -> None:
    host = authority.hosts.get(peer_id)
    if host is None or host.role is not HostRole.ISSUER:
        raise HomeError(
            f"{peer_id} was not invited here with '--role issuer': invite another host so, or add "
            "this one with --any-host if you know that the request is its owner's"
        )


def answer(root: RootKey, request: IssuerRequest, clock: Clock, entropy: Entropy) -> str:
    """What the host that asked is to install."""
    return answer_issuer_request(root, request, entropy.secret, clock.unix_s())


def install(home: Home, text: str, clock: Clock, entropy: Entropy) -> Issuer:
    """Makes this host an issuer's, or its issuer last longer. The folder is locked by the caller.

    It keeps no tenants at first, and knows no host but itself, whose certificate is its own then.

    Raises:
        HomeError, StorageFull: When nothing was asked for here, or it cannot be written.
        SecurityError: When that is no answer of our root to what was asked here.
    """
    identity, now_unix_s = load_identity(home), clock.unix_s()
    issuer = open_issuer_answer(text, identity.trust.roots)
    stored = home.read(HomeFile.AUTHORITY)
    if stored is None:
        authority = _first_state(home, issuer, identity.trust.roots)
    else:
        authority = authority_from_bytes(stored)
        issuer = _newest(identity.trust, issuer, authority.issuer.der)
        authority = authority.with_certificate(issuer, _root_of(issuer, identity.trust.roots))
    authority, leaf = authority.certify(
        identity.peer_id, identity.keys.sealing_public, entropy.secret, now_unix_s
    )
    home.write(HomeFile.AUTHORITY, authority_to_bytes(authority))
    store_renewed(home, identity.renewed(leaf, issuer.der, identity.trust), ())
    home.remove(HomeFile.ISSUER_KEY)
    return issuer


def _newest(trust: Trust, issuer: Issuer, before: bytes) -> Issuer:
    """Of this certificate and the one of before the one that counts: an older answer shortens none.

    The root of the one of before may be let go since.
    """
    trust = trust.with_issuer(issuer.der)
    with contextlib.suppress(UntrustedIssuer):
        trust = trust.with_issuer(before)
    return trust.issuer(issuer.issuer_id)


def _root_of(issuer: Issuer, roots: Roots) -> Root:
    found = map(parse_root, roots.in_force)
    return next(root.public_part for root in found if root.root_id == issuer.root_id)


def _first_state(home: Home, issuer: Issuer, roots: Roots) -> Authority:
    stored = home.read(HomeFile.ISSUER_KEY)
    if stored is None:
        raise HomeError(
            f"{home.path} has not asked to become an issuer's: run 'rhizome ca issuer request'"
        )
    private = issuer_key_from_bytes(stored)
    if key_id(private.public_key()) != issuer.issuer_id:
        raise HomeError("that is the answer to another host's request, or to one of another time")
    key = IssuerKey(
        private=private,
        der=issuer.der,
        issuer_id=issuer.issuer_id,
        overlay_id=issuer.overlay_id,
    )
    return Authority.joined(_root_of(issuer, roots), key)


def known_issuers(home: Home, now_unix_s: float) -> list[IssuerLine]:
    """Every issuer that a host knows, by id; from its folder, whether or not its peer runs.

    Raises:
        HomeError, StorageError: When this is no host's folder, or it cannot be read.
        SecurityError: When what it holds is damaged.
    """
    identity = load_identity(home)
    stored = home.read(HomeFile.AUTHORITY)
    authority = None if stored is None else authority_from_bytes(stored)
    book, known = believed_in(home, identity.trust)
    if authority is not None:
        book.learn(issuers=[authority.issuer.der])
    mine = None if authority is None else authority.issuer.issuer_id
    made_by = parse_leaf(identity.leaf).issuer_id
    return [
        IssuerLine(
            issuer_id=issuer_id,
            ends_unix_s=issuer.not_after_unix_s,
            mine=issuer_id == mine,
            renews_me=issuer_id == made_by,
            revoked=known.revokes(issuer_id),
            ended=now_unix_s > issuer.not_after_unix_s,
            hosts=len(authority.hosts) if authority is not None and issuer_id == mine else None,
        )
        for issuer_id, issuer in sorted(book.now.issuers.items())
    ]
