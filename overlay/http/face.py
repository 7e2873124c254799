"""Opens the HTTP face of one peer."""

from __future__ import annotations

import errno
import ssl
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
from overlay.http.app import make_app
from overlay.http.guard import Guard
from overlay.http.names import KnownNames
from overlay.http.refusal import Stamp
from overlay.http.server import serve_http
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

    def models(self) -> Iterable[str]:
        return self.node.router.models()

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
    *,
    task_status: trio.TaskStatus[tuple[str, ...]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves until cancelled; started with the base URLs.

    Args:
        node: Whose requests they are.
        config: Where to listen, and with which certificate.
        interfaces: Whose addresses stand in URLs for one that means all of them.
        task_status: Started with the base URLs, the one to be printed first.

    Raises:
        ConfigError: When the address or the certificate cannot be used.
    """
    tls = tls_context(config)
    listeners = await open_listeners(config)
    known = KnownNames(hosts=frozenset(config.http_hosts), origins=frozenset(config.http_origins))
    scheme = "http" if tls is None else "https"
    bound = [Address(*listener.socket.getsockname()[:2]) for listener in listeners]
    urls = tuple(f"{scheme}://{address}" for address in client_addresses(bound, interfaces))
    app = Guard(
        make_app(PeerFront(node, config.request_timeout_s, urls)),
        lambda: known,
        Stamp(node.ports.clock, node.ports.entropy),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(
            lambda task_status: serve_http(
                app,
                listeners,
                clock=node.ports.clock,
                entropy=node.ports.entropy,
                tls=tls,
                draining=lambda: node.draining,
                task_status=task_status,
            )
        )
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


def tls_context(config: PeerConfig) -> ssl.SSLContext | None:
    """The operator's certificate; None for plain HTTP."""
    if config.http_cert is None or config.http_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # The password that no key has: otherwise OpenSSL would ask for one on the terminal.
        context.load_cert_chain(config.http_cert, config.http_key, password="")
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"http_cert or http_key cannot be used: {error}") from None
    return context
