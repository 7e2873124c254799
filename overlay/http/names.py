"""By which names this API may be called, and from pages of which origins.

A page of ``evil.example`` can have its name resolve to this host's address (DNS rebinding). The
browser then takes this API for a part of that page, and only the Host header tells. So a name must
be one that this peer knows: ``localhost``, those it was given, those in its certificate. An address
is taken as it is: no name was resolved, so none can have been bent. The port says nothing either
(tunnels and containers map it).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from overlay.errors import ConfigError
from security.errors import MalformedName
from security.http_names import http_name

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
DNS_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
AUTHORITY = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(?P<port>[0-9]{0,5}))?")
ORIGIN = re.compile(rf"https?://(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\])(?::[0-9]{{1,5}})?")
LOCAL_NAMES = frozenset({"localhost"})


def dns_name(written: str) -> str:
    """A DNS name as it is compared. Raises ConfigError."""
    name = written.lower().removesuffix(".")
    if not DNS_NAME.fullmatch(name) or is_address(name):
        raise ConfigError(f"not a host's name: {written[:80]!r}")
    return name


def certificate_name(written: str) -> str:
    """A DNS name or an address as certificates of the overlay hold them. Raises ConfigError."""
    try:
        return http_name(written)
    except MalformedName as error:
        raise ConfigError(str(error)) from None


def origin(written: str) -> str:
    """An origin as browsers spell it. Raises ConfigError."""
    found = written.lower().removesuffix("/")
    if not ORIGIN.fullmatch(found):
        raise ConfigError(f"not an origin like https://app.example: {written[:80]!r}")
    return found


def is_address(host: str) -> bool:
    """Whether a host is an IP address."""
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def host_of(authority: str) -> str | None:
    """The host of a Host header's value, as it is compared; None where that is malformed."""
    found = AUTHORITY.fullmatch(authority.lower())
    if found is None:
        return None
    host = found["host"].removesuffix(".")
    if host.startswith("[") or host.replace(".", "").isdecimal():
        return host if is_address(host) else None
    return host if DNS_NAME.fullmatch(host) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownNames:
    """``hosts`` may begin with ``*.`` as in certificates; all in lower case."""

    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()

    def knows(self, host: str) -> bool:
        """Whether this API answers to a host of :func:`host_of`."""
        if is_address(host) or host in LOCAL_NAMES or host in self.hosts:
            return True
        return "*." + host.partition(".")[2] in self.hosts

    def trusts(self, origin_said: str, authority: str) -> bool:
        """Whether pages of an origin may call: the API's own, or one that was named."""
        found = origin_said.lower()
        own = authority.lower()
        return found in self.origins or found in {f"http://{own}", f"https://{own}"}
