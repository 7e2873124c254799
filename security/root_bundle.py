"""Root bundles: which roots an overlay has, from one rotation to the next.

An overlay begins with one root and no bundle. A rotation is two bundles that name the old root and
the new one: with the first both are in force (the overlap), with the second the new one alone. Each
is numbered, and signed by both, which shows that they hold their keys.

Rules
1. A bundle is taken when its number is above ours, both signatures hold, and it follows from what
   is in force here. Nothing else makes a root trusted but the home folder and a ticket.
2. Bundles that let a root go are kept and carried, as that root has signed them: a host that was
   off during any number of rotations goes from one to the next.
3. Of two bundles with one number the first one stays, and the other one changes nothing. It proves
   that the key of a root is in two hands, and is told while the first one is kept: an overlap's is
   until its end is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Final

import msgspec
from cryptography.exceptions import InvalidSignature
from msgspec import Meta

from security.certificate import (
    Issuer,
    OverlayId,
    RootCertificate,
    RootId,
    RootKey,
    parse_issuer,
    parse_root,
)
from security.certificate_form import CERTIFICATE_BYTES_MAX
from security.errors import (
    BadSignature,
    LimitExceeded,
    Malformed,
    MalformedObject,
    RootConflict,
    UntrustedIssuer,
    UntrustedRoot,
    WrongOverlay,
)
from security.signing import message_of
from security.wire import decode

VERSION = 1
KIND = "roots"
"""What its signatures are for, as ``security.signed.Kind`` says it of other objects."""

BUNDLE_BYTES_MAX = 1536
"""Ours have some 1,000."""

CHAIN_MAX = 32
"""Bundles that are kept and carried: so many rotations an overlay can have."""

TOLD_BYTES_MAX = CHAIN_MAX * (BUNDLE_BYTES_MAX + 8) + 64
"""All of them with their frame; the enrolment listener carries 64 KiB."""

NUMBER_MAX = (1 << 32) - 1

Version = Annotated[int, Meta(ge=0, le=255)]
Der = Annotated[bytes, Meta(max_length=CERTIFICATE_BYTES_MAX)]
Bundle = Annotated[bytes, Meta(max_length=BUNDLE_BYTES_MAX)]
Bundles = Annotated[list[Bundle], Meta(max_length=CHAIN_MAX)]


class AskRoots(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="roots"):
    """The question for all bundles of an overlay, which anybody may ask."""

    v: Version


class ToldRoots(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="roots"):
    """The answer, and the form in which a host keeps them."""

    v: Version
    bundles: Bundles


ROOTS_REQUEST: Final = msgspec.msgpack.encode(AskRoots(v=VERSION))


def encode_bundles(bundles: Sequence[bytes]) -> bytes:
    """Bundles as they are told and kept."""
    return msgspec.msgpack.encode(ToldRoots(v=VERSION, bundles=list(bundles)))


def decode_bundles(data: bytes) -> tuple[bytes, ...]:
    """Reads what ``encode_bundles`` wrote; no bundle is checked here.

    Raises:
        MalformedObject, UnsupportedVersion: When it is something else.
    """
    if len(data) > TOLD_BYTES_MAX:
        raise MalformedObject(f"root bundles of {len(data)} bytes")
    return tuple(decode(data, ToldRoots, VERSION, "root bundles").bundles)


class BundleBody(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, array_like=True
):
    """What is signed. ``drop``: the old root is in force no more."""

    v: Version
    number: Annotated[int, Meta(ge=1, le=NUMBER_MAX)]
    old: Der
    new: Der
    drop: bool


class SignedBundle(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, array_like=True
):
    """The form on the wire. The signatures are the old root's and the new one's."""

    v: Version
    overlay: Annotated[bytes, Meta(min_length=16, max_length=16)]
    body: Annotated[bytes, Meta(max_length=BUNDLE_BYTES_MAX)]
    signatures: Annotated[
        list[Annotated[bytes, Meta(min_length=64, max_length=64)]],
        Meta(min_length=2, max_length=2),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class RootBundle:
    """A bundle whose signatures hold; whether it is to be taken is said by :class:`Roots`."""

    number: int
    old: bytes
    new: bytes
    drop: bool
    body: bytes = field(repr=False)
    data: bytes = field(repr=False)

    @property
    def follows(self) -> tuple[tuple[bytes, ...], ...]:
        """What can be in force before it.

        A host whose ticket had the new root knows that one alone, and takes what came with it.
        """
        before = ((self.old,), (self.new,))
        return (*before, (self.old, self.new)) if self.drop else before

    @property
    def in_force(self) -> tuple[bytes, ...]:
        """The roots that are in force with it, the newest last."""
        return (self.new,) if self.drop else (self.old, self.new)


def make_bundle(number: int, old: RootKey, new: RootKey, *, drop: bool) -> bytes:
    """Signs that a root is in force beside an old one, or in its stead.

    Equal arguments give equal bytes.

    Raises:
        LimitExceeded: When it would be none that others take.
    """
    body = msgspec.msgpack.encode(
        BundleBody(v=VERSION, number=number, old=old.der, new=new.der, drop=drop)
    )
    overlay = bytes.fromhex(old.overlay_id)
    signatures = [
        key.private.sign(_message(overlay, parse_root(key.der), body)) for key in (old, new)
    ]
    data = msgspec.msgpack.encode(
        SignedBundle(v=VERSION, overlay=overlay, body=body, signatures=signatures)
    )
    try:
        open_bundle(data, old.overlay_id)
    except (Malformed, WrongOverlay, BadSignature) as error:
        raise LimitExceeded(f"these roots make no bundle: {error}") from None
    return data


def open_bundle(data: bytes, overlay_id: OverlayId) -> RootBundle:
    """Checks the form of a bundle and both signatures.

    Raises:
        MalformedObject, UnsupportedVersion, MalformedCertificate: When it is none.
        WrongOverlay: When it, or a root in it, is of another overlay.
        BadSignature: When one of its roots has not signed it.
    """
    if len(data) > BUNDLE_BYTES_MAX:
        raise MalformedObject(f"a root bundle of {len(data)} bytes")
    signed = decode(data, SignedBundle, VERSION, "a root bundle")
    body = decode(signed.body, BundleBody, VERSION, "a root bundle")
    if msgspec.msgpack.encode(signed) != data or msgspec.msgpack.encode(body) != signed.body:
        raise MalformedObject("a root bundle in another spelling")
    old, new = parse_root(body.old), parse_root(body.new)
    if {signed.overlay.hex(), old.overlay_id, new.overlay_id} != {overlay_id}:
        raise WrongOverlay("a root bundle of another overlay")
    if not old.number < new.number <= body.number:
        raise MalformedObject("a root bundle whose roots are not in order")
    for root, signature in zip((old, new), signed.signatures, strict=True):
        try:
            root.public.verify(signature, _message(signed.overlay, root, signed.body))
        except InvalidSignature:
            raise BadSignature("a root bundle that one of its roots has not signed") from None
    return RootBundle(
        number=body.number,
        old=old.der,
        new=new.der,
        drop=body.drop,
        body=signed.body,
        data=data,
    )


def _message(overlay: bytes, root: RootCertificate, body: bytes) -> bytes:
    return message_of(overlay, KIND, bytes.fromhex(root.root_id), body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Roots:
    """The roots that a host trusts, and the bundles by which it came to them. Immutable.

    ``number`` is that of the last bundle; without one it is the lowest that can be. ``in_force``
    are certificates, the newest last; ``chain`` are the bundles to be kept and carried, by number.
    """

    overlay_id: OverlayId
    number: int
    in_force: tuple[bytes, ...]
    chain: tuple[RootBundle, ...] = ()

    @classmethod
    def of(cls, root: bytes, bundles: Iterable[bytes] = ()) -> Roots:
        """Trusts the root of a home folder or ticket, and what follows from it by these bundles.

        Raises:
            MalformedCertificate, BadSignature: When the root is none.
            SecurityError: As :meth:`learn`.
        """
        first = parse_root(root)
        # A root bears the number of the bundle that brings it.
        roots = cls(overlay_id=first.overlay_id, number=first.number - 1, in_force=(root,))
        return roots.learn(bundles)

    @property
    def newest(self) -> bytes:
        """The root that shall sign issuers."""
        return self.in_force[-1]

    @property
    def overlap(self) -> bool:
        """Whether a rotation is under way: an old root and a new one are in force."""
        return len(self.in_force) > 1

    @property
    def ever(self) -> tuple[bytes, ...]:
        """Every root that is or was in force, as far as the chain tells."""
        before = (root for bundle in self.chain for root in (bundle.old, bundle.new))
        return tuple(dict.fromkeys((*before, *self.in_force)))

    @property
    def bundles(self) -> tuple[bytes, ...]:
        """The chain as it is stored and told."""
        return tuple(bundle.data for bundle in self.chain)

    def issuer(self, der: bytes) -> Issuer:
        """Reads an issuer's certificate by a root in force. Dates are not judged.

        Raises:
            MalformedCertificate: When it is none.
            UntrustedIssuer: When no root in force signed it.
        """
        return read_issuer(der, self.in_force)

    def former_issuer(self, der: bytes) -> Issuer:
        """The same by any root that ever was in force: for what a host itself was given.

        Raises:
            MalformedCertificate, UntrustedIssuer: As :meth:`issuer`.
        """
        return read_issuer(der, self.ever)

    def age(self, root_id: RootId) -> int:
        """Where a root stands among those in force: more is newer; -1 when it is not there."""
        ids = [parse_root(root).root_id for root in self.in_force]
        return ids.index(root_id) if root_id in ids else -1

    def learn(self, bundles: Iterable[bytes]) -> Roots:
        """These roots, after everything that is to be taken of some bundles, in any order.

        Raises:
            MalformedObject, UnsupportedVersion, MalformedCertificate, WrongOverlay, BadSignature:
                As ``open_bundle``; nothing is taken then.
            UntrustedRoot: When one is new, and does not follow from the roots in force here.
            RootConflict: When one is another than the one that was taken with its number.
            LimitExceeded: When the overlay had too many rotations.
        """
        roots, known = self, set(self.bundles)
        opened = [open_bundle(one, self.overlay_id) for one in bundles if one not in known]
        for bundle in sorted(opened, key=lambda one: one.number):
            roots = roots._with(bundle)
        return roots

    def _with(self, bundle: RootBundle) -> Roots:
        if bundle.number <= self.number:
            self._check_no_conflict(bundle)
            return self
        if self.in_force not in bundle.follows:
            raise UntrustedRoot("a root bundle that does not follow from the roots trusted here")
        kept = [one for one in self.chain if one.drop]
        if len(kept) >= CHAIN_MAX:
            raise LimitExceeded(f"an overlay has at most {CHAIN_MAX} rotations: begin a new one")
        return replace(self, number=bundle.number, in_force=bundle.in_force, chain=(*kept, bundle))

    def _check_no_conflict(self, bundle: RootBundle) -> None:
        """Nobody but a root of ours can prove a conflict: other bundles are passed over."""
        mine = next((one for one in self.chain if one.number == bundle.number), bundle)
        if mine.body != bundle.body and {bundle.old, bundle.new} & {mine.old, mine.new}:
            raise RootConflict(
                f"there are two root bundles with number {mine.number}: the key of a root is in "
                "wrong hands, or was used on two hosts"
            )


def read_issuer(der: bytes, roots: Sequence[bytes]) -> Issuer:
    """Reads an issuer's certificate by the one of some roots that has signed it.

    Raises:
        MalformedCertificate: When it is none.
        UntrustedIssuer: When none of these roots signed it.
    """
    for root in roots[1:]:
        try:
            return parse_issuer(der, root)
        except UntrustedIssuer:
            continue
    return parse_issuer(der, roots[0])


def next_bundle(roots: Roots, old: RootKey, new: RootKey, *, drop: bool) -> bytes:
    """The bundle that comes next in a rotation, signed.

    Args:
        roots: As they are now.
        old: The root that was before.
        new: The one that comes.
        drop: Whether the overlap ends with it, or begins.

    Raises:
        UntrustedRoot: When that is not the next step here, or not with these roots.
        LimitExceeded: When the overlay had too many rotations.
    """
    expected = (old.der, new.der) if drop else (old.der,)
    if roots.in_force != expected:
        raise UntrustedRoot("these are not the roots that have to sign next")
    data = make_bundle(number_after(roots), old, new, drop=drop)
    roots.learn([data])
    return data


def number_after(roots: Roots) -> int:
    """The number of the bundle that comes next."""
    return max(roots.number, 1) + 1
