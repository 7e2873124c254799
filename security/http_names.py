"""Names of HTTP faces: what is one, how it is spelled, and which may be granted to a host.

A name is a DNS name in lower case without a last dot, or an IP address as RFC 5952 writes it.
``*.llm.example`` is a name like any other: who was granted it may have it, and nothing below it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence

from security.errors import LimitExceeded, MalformedName

HTTP_NAMES_MAX = 16
"""Of one host, one ticket and one request."""

NAME_CHARS_MAX = 253

RESERVED_SUFFIX = ".rhizome.internal"
"""Names of peers on the overlay's own port end so."""

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_LAST = rf"(?![0-9]+\Z){_LABEL}"
_DNS_NAME = re.compile(rf"(?=.{{1,{NAME_CHARS_MAX}}}\Z)(?:(?:\*\.{_LABEL}|{_LABEL})\.)*{_LAST}")
_OF_EVERY_HOST = ("localhost", ".localhost")


def http_name(text: str) -> str:
    """A name in its one spelling.

    Raises:
        MalformedName: when it is none, or one that only a peer can have.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return _dns_name(text)
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            raise MalformedName("an address with a scope means something on one host alone")
        if address.ipv4_mapped is not None:
            raise MalformedName("write an IPv4 address as 192.0.2.1")
    return str(address)


def _dns_name(text: str) -> str:
    name = text.lower().removesuffix(".")
    if not _DNS_NAME.fullmatch(name) or "*" in name[1:]:
        raise MalformedName(f"neither a DNS name nor an IP address: {text[:80]!r}")
    if f".{name}".endswith(RESERVED_SUFFIX):
        raise MalformedName(f"names that end in {RESERVED_SUFFIX} are the peers' own")
    return name


def granted_name(text: str) -> str:
    """A name that can be a host's own, in its one spelling.

    Raises:
        MalformedName: as ``http_name``; or it means another host everywhere, or many at once.
    """
    name = http_name(text)
    if name == _OF_EVERY_HOST[0] or name.endswith(_OF_EVERY_HOST[1]):
        raise MalformedName("localhost is every host's own name: no certificate is for it")
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name
    if address.is_loopback or address.is_unspecified or address.is_multicast:
        raise MalformedName(f"{name} is not the address of one host")
    return name


def granted_names(texts: Iterable[str]) -> tuple[str, ...]:
    """Names that can be one host's own: each once, in order.

    Raises:
        MalformedName: as ``granted_name``.
        LimitExceeded: when they are too many.
    """
    names = tuple(sorted({granted_name(each) for each in texts}))
    if len(names) > HTTP_NAMES_MAX:
        raise LimitExceeded(f"a host has at most {HTTP_NAMES_MAX} HTTP names")
    return names


def not_granted(asked: Sequence[str], granted: Iterable[str]) -> list[str]:
    """Those of the names that were not granted; each is compared as it is spelled."""
    known = set(granted)
    return [name for name in asked if name not in known]
