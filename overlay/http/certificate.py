"""With what the HTTP face answers TLS: the operator's certificate, or one of the own issuer.

One of an issuer on another host is ``granted.py``'s.

Both change while a peer runs, and nobody notices: a connection keeps the context that it began
with, the next one gets the new.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import trio
from cryptography import x509

from overlay.errors import ConfigError
from overlay.ports import Clock
from overlay.transport.tls import file_of
from security.errors import SecurityError
from security.http_certificate import HttpCertificate

log = logging.getLogger(__name__)

LOOK_S = 10.0
"""Between looks at whether there is a newer certificate."""

FILE_BYTES_MAX = 1 << 20


class Certificate(Protocol):
    """What TLS shows. ``names`` are its DNS names, in lower case, some of them ``*.example``."""

    context: ssl.SSLContext
    names: frozenset[str]

    async def keep(self) -> None:
        """Keeps it new until cancelled."""


class OperatorsCertificate:
    """Two files that somebody else renews; read again when they change.

    While they do not fit together, as between the writing of one and of the other, or cannot be
    read, what was read before stays.

    Raises:
        ConfigError: When they cannot be used at first.
    """

    def __init__(self, chain: str, key: str) -> None:
        self._chain, self._key = Path(chain), Path(key)
        self._read_at = self._state()
        self._refused: tuple[object, ...] | None = None
        self.context, self.names = self._load()

    async def keep(self) -> None:
        """Looks at the files every :data:`LOOK_S`."""
        while True:
            await trio.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        """Reads the files again if they have changed since they were read."""
        state = self._state()
        if state == self._read_at:
            return
        try:
            self.context, self.names = self._load()
        except ConfigError as error:
            if self._refused != state:
                log.warning("the old certificate of the HTTP API stays: %s", error)
            self._refused = state
            return
        self._read_at, self._refused = state, None
        log.info("read a new certificate of the HTTP API")

    def _state(self) -> tuple[object, ...]:
        """What changes when one of the files is written or replaced."""
        found: list[object] = []
        for path in (self._chain, self._key):
            try:
                status = path.stat()
            except OSError as error:
                found.append(error.errno)
            else:
                found += [status.st_mtime_ns, status.st_ino, status.st_size]
        return tuple(found)

    def _load(self) -> tuple[ssl.SSLContext, frozenset[str]]:
        context = server_context()
        try:
            # The password that no key has: otherwise OpenSSL would ask for one on the terminal.
            context.load_cert_chain(self._chain, self._key, password="")
            with self._chain.open("rb") as opened:
                first = x509.load_pem_x509_certificates(opened.read(FILE_BYTES_MAX))[0]
            return context, dns_names(first)
        except (OSError, ssl.SSLError, ValueError) as error:
            raise ConfigError(f"http_cert or http_key cannot be used: {error}") from None


class IssuedCertificate:
    """One that this host's own issuer makes, and makes again at half of its life.

    Raises:
        SecurityError: When it can make none at first.
    """

    def __init__(
        self, make: Callable[[], HttpCertificate], names: frozenset[str], clock: Clock
    ) -> None:
        self._make = make
        self.names = names
        self._clock = clock
        self._trouble = ""
        self.context, self._renew_unix_s = self._made()

    async def keep(self) -> None:
        """Makes another one in time, by this host's clock; until it can, the old one stays."""
        while True:
            await trio.sleep(LOOK_S)
            if self._clock.unix_s() >= self._renew_unix_s:
                self._renew()

    def posture(self) -> list[tuple[str, str]]:
        """Lines for this host's owner: none while all is well."""
        return [("http", f"its certificate is not renewed: {self._trouble}")] * bool(self._trouble)

    def _renew(self) -> None:
        try:
            self.context, self._renew_unix_s = self._made()
            self._trouble = ""
        except SecurityError as error:
            if str(error) != self._trouble:
                log.warning("the old certificate of the HTTP API stays: %s", error)
            self._trouble = str(error)

    def _made(self) -> tuple[ssl.SSLContext, float]:
        made, now_unix_s = self._make(), self._clock.unix_s()
        return context_of(made), (now_unix_s + made.not_after_unix_s) / 2


def context_of(made: HttpCertificate) -> ssl.SSLContext:
    """For the listening side, with a certificate of the overlay."""
    context = server_context()
    with file_of(made.pem) as path:
        context.load_cert_chain(path)
    return context


def server_context() -> ssl.SSLContext:
    """For the listening side; clients may be older than our own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def dns_names(certificate: x509.Certificate) -> frozenset[str]:
    """The DNS names that a certificate is for."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset(name.lower() for name in found.value.get_values_for_type(x509.DNSName))
