"""An issuer on a simulated host: its files in memory, its enrolment listener on the network.

The desk, the messages and their form on the connection are the product's; TLS is skipped, as it is
on the overlay's port.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import trio

from chaos.network import Network, SimTransport
from overlay.address import Address
from overlay.errors import Deadline, HomeError, PeerGone
from overlay.home import HomeFile
from overlay.node import Node
from overlay.ports import SecureChannel
from overlay.transport.enrolment import answer_one, ask_one
from security.authority import Authority
from security.authority_state import authority_from_bytes, authority_to_bytes

ENROL_PORT = 7402
ASK_S = 10.0


class MemoryFiles:
    """``overlay.home.Files`` of a host that has no folder; what was written survives its peer."""

    def __init__(self, authority: Authority | None = None) -> None:
        self._files: dict[HomeFile, bytes] = {}
        if authority is not None:
            self._files[HomeFile.AUTHORITY] = authority_to_bytes(authority)
            self._files[HomeFile.ROOT] = authority.root.der
        self.epochs: dict[str, bytes] = {}

    def copy(self) -> MemoryFiles:
        """Files of their own with the same content."""
        made = copy(self)
        made._files, made.epochs = dict(self._files), dict(self.epochs)
        return made

    @property
    def authority(self) -> Authority:
        """The issuer's state as it is stored."""
        return authority_from_bytes(self.need(HomeFile.AUTHORITY))

    def read(self, file: HomeFile) -> bytes | None:
        return self._files.get(file)

    def need(self, file: HomeFile) -> bytes:
        found = self.read(file)
        if found is None:
            raise HomeError(f"this host holds no {file.value}")
        return found

    def write(self, file: HomeFile, content: bytes) -> None:
        self._files[file] = content

    def remove(self, file: HomeFile) -> None:
        self._files.pop(file, None)

    def write_epoch(self, name: str, content: bytes) -> None:
        self.epochs[name] = content


class SimEnrolment:
    """``overlay.ports.Enrolment`` on a simulated network."""

    def __init__(self, network: Network, host: str) -> None:
        self._network = network
        self._host = host

    async def ask(self, address: Address, request: bytes, roots: Sequence[bytes]) -> bytes:
        return await self._ask(address, request, roots)

    async def ask_anybody(self, address: Address, request: bytes) -> bytes:
        return await self._ask(address, request, None)

    async def _ask(self, address: Address, request: bytes, roots: Sequence[bytes] | None) -> bytes:
        """Asks as one that shows no certificate."""
        transport = SimTransport(self._network, self._host, None, None, roots)
        try:
            with trio.fail_after(ASK_S):
                channel = await transport.dial(address, None)
                return await ask_one(channel.channel, request)
        except trio.TooSlowError as error:
            raise Deadline(f"no answer from the issuer at {address} in time") from error
        except (trio.BrokenResourceError, OSError) as error:
            raise PeerGone(f"no connection to the issuer at {address}") from error


class EnrolmentFace:
    """What an issuer's peer serves beside the overlay port; nothing on other hosts."""

    def __init__(self, transport: SimTransport) -> None:
        self._transport = transport

    async def serve(
        self, node: Node, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Answers until cancelled."""
        desk = node.desk
        if desk is None:
            task_status.started()
            return

        async def accept(channel: SecureChannel) -> None:
            await answer_one(channel.channel, channel.address, desk.answer)

        here = Address(self._transport.host, ENROL_PORT)
        async with trio.open_nursery() as nursery:
            desk.listens_at(await nursery.start(self._transport.listen, [here], accept))
            task_status.started()
