"""Opens the HTTP face of one peer."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import msgspec
import trio

from overlay.address import Address
from overlay.config import PeerConfig
from overlay.control.handler import explain, status_of
from overlay.discovery.interfaces import Interface, beyond_link, spelled_out
from overlay.errors import ConfigError, draining
from overlay.home import Files
from overlay.http.app import make_app
from overlay.http.certificate import Certificate, IssuedCertificate, OperatorsCertificate
from overlay.http.granted import GrantedCertificate
from overlay.http.guard import Guard
from overlay.http.names import KnownNames, is_address
from overlay.http.refusal import Stamp
from overlay.http.server import serve_http
from overlay.issuer import IssuerDesk
from overlay.node import Node
from overlay.ports import Clock, Entropy
from overlay.request import Ingress, Principal, Scope
from overlay.work import not_a_member
from security.tenant import TenantId

BACKLOG = 256


@dataclass(frozen=True, slots=True)
class PeerFront:
    """``overlay.http.front.Front`` of a node."""

    node: Node
    request_timeout_s: float
    urls: tuple[str, ...] = ()

    @property
    def ingress(self) -> Ingress:
        return self.node.ingress

    @property
    def clock(self) -> Clock:
        return self.node.ports.clock

    @property
    def entropy(self) -> Entropy:
        return self.node.ports.entropy

    def authenticate(self, bearer: str) -> Principal:
        return self.node.principals.of_token(bearer)

    def admitted(self, principal: Principal) -> AbstractContextManager[None]:
        return self.node.quotas.admitted(principal)

    def check_open(self) -> None:
        if self.node.draining:
            raise draining()

    def models(self, tenant: TenantId) -> Iterable[str]:
        return self.node.router.models_for(self.node.tenants.get(tenant))

    def health(self) -> Mapping[str, object]:
        return {
            "status": "draining" if self.node.draining else "ok",
            "peer_id": self.node.peer_id,
            "peers": len(self.node.peers.up()),
        }

    def metrics(self, principal: Principal) -> tuple[str, bytes]:
        return self.node.metrics.text(self._seen_by(principal))

    def status(self, principal: Principal) -> bytes:
        tenant = self._seen_by(principal)
        epoch = None if tenant is None else self.node.tenants.get(tenant)
        return msgspec.json.encode(status_of(self.node, self.urls, epoch))

    def explain(self, principal: Principal, request_id: str) -> bytes | None:
        found = explain(self.node, request_id, self._seen_by(principal))
        return None if found is None else msgspec.json.encode(found)

    def _seen_by(self, principal: Principal) -> TenantId | None:
        """The one tenant that a viewer sees; None: all. Raises RequestError 421."""
        if Scope.ADMIN in principal.scopes:
            return None
        if self.node.tenants.get(principal.tenant) is None:
            raise not_a_member()
        return principal.tenant


async def serve_http_face(
    node: Node,
    config: PeerConfig,
    interfaces: Sequence[Interface] = (),
    desk: IssuerDesk | None = None,
    granted: GrantedCertificate | None = None,
    *,
    task_status: trio.TaskStatus[tuple[str, ...]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves until cancelled; started with the base URLs, once there is a certificate.

    Args:
        node: Whose requests they are.
        config: Where to listen, and with which certificate.
        interfaces: Whose addresses stand in URLs for one that means all of them.
        desk: Makes certificates, on the issuer's host.
        granted: The certificate of :func:`granted_to`, on others.
        task_status: Started with the base URLs, the one to be printed first.

    Raises:
        ConfigError: When the address or the certificate cannot be used.
    """
    if granted is not None:
        await granted.open()
    listeners = await open_listeners(config)
    bound = [Address(*listener.socket.getsockname()[:2]) for listener in listeners]
    addresses = client_addresses(bound, interfaces)
    certificate = granted or certificate_of(config, desk, addresses, node.ports.clock)
    if isinstance(certificate, IssuedCertificate):
        node.notices.append(certificate.posture)
    urls = urls_of(
        certificate, addresses if granted is None else granted.addresses(addresses), bound
    )

    def known() -> KnownNames:
        named = frozenset() if certificate is None else certificate.names
        return KnownNames(
            hosts=named.union(config.http_hosts), origins=frozenset(config.http_origins)
        )

    app = Guard(
        make_app(PeerFront(node, config.request_timeout_s, urls)),
        known,
        Stamp(node.ports.clock, node.ports.entropy),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(
            lambda task_status: serve_http(
                app,
                listeners,
                clock=node.ports.clock,
                entropy=node.ports.entropy,
                tls=None if certificate is None else lambda: certificate.context,
                draining=lambda: node.draining,
                task_status=task_status,
            )
        )
        if certificate is not None:
            nursery.start_soon(certificate.keep)
        task_status.started(urls)


def client_addresses(
    bound: Sequence[Address], interfaces: Sequence[Interface]
) -> tuple[Address, ...]:
    """Addresses that a client can use; nobody can connect to ``0.0.0.0`` from another host."""
    found: list[Address] = []
    for address in bound:
        every = spelled_out(address, interfaces)
        # No client takes a link-local address, whose scope is a name of this host's own.
        found += beyond_link(every) or every or (loopback_for(address),)
    return tuple(dict.fromkeys(found))


def loopback_for(address: Address) -> Address:
    """This host's own address of the same family."""
    return Address("::1" if ":" in address.host else "127.0.0.1", address.port)


async def open_listeners(config: PeerConfig) -> list[trio.SocketListener]:
    """The socket of the HTTP face."""
    address = config.http
    try:
        return await trio.open_tcp_listeners(address.port, host=address.host, backlog=BACKLOG)
    except OSError as error:
        inner = error.__cause__ if isinstance(error.__cause__, OSError) else error
        if inner.errno == errno.EADDRINUSE or "in use" in str(error):
            raise ConfigError(
                f"port {address.port} of {address.host} is taken: give the HTTP API another one "
                "with --http, or stop what uses it"
            ) from None
        raise ConfigError(
            f"cannot serve HTTP on {address}: {inner.strerror or inner}; give --http an address of "
            "this host, and a port above 1023"
        ) from None


def certificate_of(
    config: PeerConfig, desk: IssuerDesk | None, urls: Sequence[Address], clock: Clock
) -> Certificate | None:
    """What the settings ask for; None for plain HTTP.

    Raises:
        ConfigError: When it cannot be had.
        SecurityError: When no certificate can have those names, or this issuer makes none.
    """
    if config.http_cert is not None and config.http_key is not None:
        return OperatorsCertificate(config.http_cert, config.http_key)
    if not config.http_names:
        return None
    assert desk is not None, "on other hosts it is granted"
    hosts = [address.host for address in urls if "%" not in address.host]
    asked = list(dict.fromkeys([*config.http_names, *hosts]))
    names = frozenset(name for name in config.http_names if not is_address(name))
    return IssuedCertificate(lambda: desk.http_certificate(asked), names, clock)


def granted_to(node: Node, config: PeerConfig, files: Files) -> GrantedCertificate | None:
    """The certificate that an issuer on another host makes; None where none is asked for."""
    if not config.http_names or node.desk is not None:
        return None
    return GrantedCertificate(
        config.http_names,
        identity=lambda: node.identity,
        peers=node.peers,
        files=files,
        clock=node.ports.clock,
        entropy=node.ports.entropy,
    )


def urls_of(
    certificate: Certificate | None, addresses: Sequence[Address], bound: Sequence[Address]
) -> tuple[str, ...]:
    """Base URLs: by the names of the certificate, with the ports of ``bound``, and by address."""
    if certificate is None:
        return tuple(f"http://{address}" for address in addresses)
    ports = sorted({address.port for address in bound})
    names = [name for name in sorted(certificate.names) if not name.startswith("*")]
    named = [f"{name}:{port}" for name in names for port in ports]
    return tuple(f"https://{each}" for each in [*named, *map(str, addresses)])
