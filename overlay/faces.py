"""What a real peer listens on beside the overlay port: Unix socket, enrolment, HTTP."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

import click
import trio

from overlay.address import Address
from overlay.client.messages import PROTOCOL as CLIENT_PROTOCOL
from overlay.config import PeerConfig
from overlay.control.handler import ControlHandler, status_of
from overlay.control.messages import PROTOCOL as CONTROL_PROTOCOL
from overlay.discovery.interfaces import Interface, addresses_of, beyond_link
from overlay.home import Home
from overlay.http.face import granted_to, serve_http_face
from overlay.http.granted import START_S
from overlay.node import Node
from overlay.ports import SecureChannel
from overlay.posture import Openings, posture
from overlay.transport.connection import Connection, Handler
from overlay.transport.enrolment import serve_enrolment
from overlay.transport.link import establish
from overlay.transport.local import listen_local
from overlay.transport.stream import Stream

log = logging.getLogger(__name__)


class Faces:
    """Everything that one real peer serves to its host and its clients."""

    def __init__(
        self,
        home: Home,
        config: PeerConfig,
        interfaces: Sequence[Interface],
        stop: trio.Event,
    ) -> None:
        self._home = home
        self._config = config
        self._interfaces = interfaces
        self._stop = stop
        self._handlers: dict[str, Handler] = {}
        self._http: tuple[str, ...] = ()

    async def serve(
        self, node: Node, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serves until cancelled; prints the posture once everything is open."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._leave_when_told, node)
            enrolment = await self._open_enrolment(node, nursery)
            await self._open_http(node, nursery)
            handler = ControlHandler(
                node, desk=node.desk, enrolment=enrolment, http=lambda: self._http
            )

            async def ask(connection: Connection, stream: Stream) -> None:
                await node.client_handler(node.principals.of_owner)(connection, stream)

            self._handlers = {CONTROL_PROTOCOL: handler, CLIENT_PROTOCOL: ask}
            await nursery.start(listen_local, self._home.control_path(), self._accept_for(node))
            click.echo(self._posture(node, enrolment))
            task_status.started()

    async def _leave_when_told(self, node: Node) -> None:
        await self._stop.wait()
        node.leaving.set()

    async def _open_http(self, node: Node, nursery: trio.Nursery) -> None:
        """Opens the HTTP API; without it for now where its certificate is waited for."""
        opened = trio.Event()
        granted = granted_to(node, self._config, self._home)
        if granted is not None:
            node.notices.append(granted.posture)

        async def serve() -> None:
            self._http = await nursery.start(
                serve_http_face, node, self._config, self._interfaces, node.desk, granted
            )
            opened.set()

        nursery.start_soon(serve)
        with trio.move_on_after(START_S):
            await opened.wait()

    async def _open_enrolment(self, node: Node, nursery: trio.Nursery) -> tuple[Address, ...]:
        """Where tickets are redeemed and certificates renewed; nowhere on other hosts."""
        desk = node.desk
        if desk is None:
            return ()
        asked = addresses_of(self._interfaces, self._config.enrol_port)
        bound = await nursery.start(
            lambda task_status: serve_enrolment(
                asked,
                desk.answer,
                credentials=lambda: node.identity.credentials,
                task_status=task_status,
            )
        )
        desk.listens_at(beyond_link(bound))
        return desk.addresses

    def _accept_for(self, node: Node) -> Callable[[SecureChannel], Awaitable[None]]:
        async def accept(channel: SecureChannel) -> None:
            connection = await establish(
                channel,
                ours=node.hello(),
                judge=node.admission.judge,
                expected=None,
                clock=node.ports.clock,
                entropy=node.ports.entropy,
                limits=node.config.limits,
                allowed="/",
            )
            await connection.run(self._handlers)

        return accept

    def _posture(self, node: Node, enrolment: Sequence[Address]) -> str:
        openings = Openings(
            interfaces=[interface.name for interface in self._interfaces],
            http=self._http,
            http_in_clear=self._config.http_insecure and not self._config.http.is_loopback,
            enrolment=enrolment,
            socket=self._home.control_path(),
        )
        return posture(node, status_of(node, self._http), self._config, openings)
