"""Errors of security, one class per cause.

SecurityError
|-- Malformed                 bytes or text that are not of the form they claim
|   |-- MalformedIdentity     not a PeerId
|   |-- MalformedCertificate  not a certificate of the shape this overlay issues
|   |-- MalformedObject       not a signed or sealed object, or over its size
|   |-- MalformedToken        not a client token
|   |-- MalformedName         not a name that an HTTP face can have
|   `-- MalformedTicket       not a ticket: cut off, mistyped, something else
|-- UnsupportedVersion        a form of another version of the protocol
|-- LimitExceeded             our caller asked for more than a format can hold
|-- Refused                   well formed, and not to be believed
|   |-- BadSignature          the signature is not the named signer's
|   |-- WrongOverlay          made for another overlay
|   |-- WrongKind             a signed object of another kind
|   |-- IdentityMismatch      certificate, key and PeerId do not belong together
|   |-- UntrustedIssuer       no such issuer under our roots
|   |-- UntrustedRoot         a root bundle that no root of ours has signed
|   |-- RootConflict          another root bundle than ours, with its number
|   |-- Expired               past its end
|   |-- NotYetValid           before its start
|   |-- Revoked               withdrawn by an issuer
|   |-- NotSteward            signed by an issuer that does not keep this tenant
|   |-- BadSeal               cannot be opened with these keys
|   |-- HostUnknown           the issuer has not enrolled that host
|   |-- NotItsIssuer          the host's own issuer is in force, and it is another one
|   |-- StaleChallenge        a challenge that was used, is old, or is another issuer's
|   |-- NameNotGranted        the issuer has not granted that HTTP name to that host
|   |-- TicketUnknown         the issuer never made that ticket, or has forgotten it
|   `-- TicketUsed            somebody has joined with that ticket
|-- UnknownTenant             this authority keeps no such tenant
|-- TenantExists              this authority keeps a tenant of that name already
|-- UnknownHost               this authority has enrolled no such host
|-- NotAMember                the host is not on that tenant's roster
`-- SealerExhausted           a sealing key has no nonces left
"""

from __future__ import annotations


class SecurityError(Exception):
    """Base of all errors raised by ``security``."""


class Malformed(SecurityError):
    """Bytes or text that are not of the form they claim."""


class MalformedIdentity(Malformed):
    """Not a PeerId."""


class MalformedCertificate(Malformed):
    """Not a certificate of the shape this overlay issues."""


class MalformedObject(Malformed):
    """Not a signed or sealed object, or over its size."""


class MalformedToken(Malformed):
    """Not a client token."""


class MalformedName(Malformed):
    """Not a name that an HTTP face can have."""


class MalformedTicket(Malformed):
    """Not a ticket; the message says what is wrong with it."""


class UnsupportedVersion(SecurityError):
    """A form of another version of the protocol."""


class LimitExceeded(SecurityError):
    """Our caller asked for more than a format can hold."""


class Refused(SecurityError):
    """Well formed, and not to be believed."""


class BadSignature(Refused):
    """The signature is not the named signer's."""


class WrongOverlay(Refused):
    """Made for another overlay."""


class WrongKind(Refused):
    """A signed object of another kind than was asked for."""


class IdentityMismatch(Refused):
    """Certificate, key and PeerId do not belong together."""


class UntrustedIssuer(Refused):
    """No such issuer under our roots."""


class UntrustedRoot(Refused):
    """A root bundle that no root which we trust has signed."""


class RootConflict(Refused):
    """Another root bundle than the one that was taken, with its number: two by one root."""


class Expired(Refused):
    """Past its end."""


class NotYetValid(Refused):
    """Before its start: one of the two clocks is off."""


class Revoked(Refused):
    """Withdrawn by an issuer."""


class NotSteward(Refused):
    """Signed by an issuer that does not keep this tenant."""


class BadSeal(Refused):
    """Cannot be opened with these keys: foreign, altered, or of another start of the sealer."""


class HostUnknown(Refused):
    """The issuer has not enrolled that host, or has forgotten it."""


class NotItsIssuer(Refused):
    """An issuer is asked by another one's host, whose own is in force."""


class StaleChallenge(Refused):
    """A challenge that was used, is too old, or was made by somebody else."""


class NameNotGranted(Refused):
    """The issuer has not granted HTTP names to that host: those in ``names``."""

    def __init__(self, message: str, names: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.names = names


class TicketUnknown(Refused):
    """The issuer never made that ticket, or has forgotten it."""


class TicketUsed(Refused):
    """Somebody has joined with that ticket."""


class UnknownTenant(SecurityError):
    """This authority keeps no such tenant."""


class TenantExists(SecurityError):
    """This authority keeps a tenant of that name already."""


class UnknownHost(SecurityError):
    """This authority has enrolled no such host."""


class NotAMember(SecurityError):
    """The host is not on that tenant's roster."""


class SealerExhausted(SecurityError):
    """A sealing key has no nonces left; a new generation gives a new key."""
