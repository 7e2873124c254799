"""Where a peer listens: host and port, in the forms that people and wire formats use."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from overlay.errors import ConfigError

ADDRESS_CHARS_MAX = 80
"""Longest text form taken from the network: an IPv6 address with a scope, brackets and a port."""

SCOPE: Final = re.compile(r"[A-Za-z0-9_.-]{1,15}")
"""An interface by name (at most 15 characters on Linux) or number. ``ipaddress`` takes any text
there, line breaks included, and addresses that others made up stand in logs."""


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """An IP address (IPv6 link-local ones with ``%scope``) and a TCP port, 0 meaning any."""

    host: str
    port: int

    def __post_init__(self) -> None:
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            raise ConfigError(f"not an IP address: {self.host[:80]!r}") from None
        _, scoped, scope = self.host.partition("%")
        if scoped and not SCOPE.fullmatch(scope):
            raise ConfigError(f"not an interface's name: {scope[:80]!r}")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port must be between 0 and 65535, not {self.port}")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """True for addresses that no other host can reach."""
        return ipaddress.ip_address(self.host).is_loopback

    @classmethod
    def parse(cls, text: str, *, default_port: int | None = None) -> Address:
        """Reads ``1.2.3.4:7401`` or ``[fe80::1%eth0]:7401``; the port may be left to a default.

        Raises:
            ConfigError: when it is neither, or has no port and there is no default.
        """
        if len(text) > ADDRESS_CHARS_MAX:
            raise ConfigError("address is too long")
        host, port = text, ""
        if text.startswith("["):
            host, _, rest = text[1:].partition("]")
            port = rest.removeprefix(":")
        elif text.count(":") == 1:
            host, _, port = text.partition(":")
        if not port and default_port is not None:
            return cls(host, default_port)
        if not port.isascii() or not port.isdigit():
            raise ConfigError(f"address {text!r} needs a port, as in 192.168.1.5:7401")
        return cls(host, int(port))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address whose port may be left to a default."""

    host: str
    port: int | None

    @classmethod
    def parse(cls, written: str) -> Endpoint:
        """Reads ``192.168.1.5``, ``192.168.1.5:7401`` or ``[fe80::1%eth0]:7401``."""
        address = Address.parse(written, default_port=0)
        bare = written in {address.host, f"[{address.host}]"}
        return cls(address.host, None if bare else address.port)

    def at(self, default_port: int) -> Address:
        """The address, with ``default_port`` where none was written."""
        return Address(self.host, default_port if self.port is None else self.port)

    def __str__(self) -> str:
        return self.host if self.port is None else str(Address(self.host, self.port))


def ip_host(written: str) -> str:
    """An IP address without a port. Raises ConfigError."""
    try:
        ipaddress.ip_address(written)
    except ValueError:
        raise ConfigError(f"not an IP address: {written[:80]!r}") from None
    return written
