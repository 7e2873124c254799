"""Looks for what only a tenant's members may see, in all that any other host takes in or keeps.

A tenant's marks are the canary that stands in each of its prompts, its id in both spellings, and
its name where that is long enough to mean it.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import trio

from chaos.history import Event, What
from chaos.modes.node.cluster import SimCluster
from chaos.observe.watching import Watching
from chaos.scenario.prompts import canary
from overlay.address import Address
from overlay.ports import ByteChannel, SecureChannel, Storage, Transport
from security.peer_id import PeerId
from security.tenant import TenantId

NAME_CHARS_MIN = 8
"""A shorter name is found in anything."""

LOGGERS = ("overlay", "inference", "security")
"""Parents of all loggers of the product."""

Found = Callable[[str, str], None]
"""Tenant, and where its mark was seen."""


class Marks:
    """The marks of tenants that somebody is no member of."""

    def __init__(self, tenants: Mapping[TenantId, str]) -> None:
        self._marks: list[tuple[bytes, str, str]] = []
        for tenant_id, name in tenants.items():
            self._marks.append((canary(name).encode(), name, "prompt"))
            self._marks.append((tenant_id.encode(), name, "tenant id"))
            self._marks.append((bytes.fromhex(tenant_id), name, "tenant id"))
            if len(name) >= NAME_CHARS_MIN:
                self._marks.append((name.encode(), name, "tenant name"))
        self.longest = max((len(mark) for mark, _, _ in self._marks), default=0)

    def __bool__(self) -> bool:
        return bool(self._marks)

    def look(self, data: bytes, where: str, found: Found) -> None:
        """Tells of each mark that is in ``data``."""
        for mark, name, what in self._marks:
            if mark in data:
                found(name, f"{what} in {where}")


class _ChannelTap:
    """A byte channel whose incoming bytes are looked through, over the ends of chunks too."""

    def __init__(self, inner: ByteChannel, marks: Marks, found: Found) -> None:
        self._inner = inner
        self._marks = marks
        self._found = found
        self._end = b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._inner.send_all(data)

    async def receive_some(self) -> bytes:
        data = await self._inner.receive_some()
        seen = self._end + data
        self._marks.look(seen, "what it received", self._found)
        self._end = seen[-(self._marks.longest - 1) :]
        return data

    async def aclose(self) -> None:
        await self._inner.aclose()


class TransportTap:
    """``overlay.ports.Transport`` that counts accepted channels and looks through all of them."""

    def __init__(self, inner: Transport, marks: Marks, found: Found) -> None:
        self._inner = inner
        self._marks = marks
        self._found = found
        self.accepted = 0

    async def listen(
        self,
        addresses: Sequence[Address],
        accept: Callable[[SecureChannel], Awaitable[None]],
        *,
        task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        async def counted(channel: SecureChannel) -> None:
            self.accepted += 1
            try:
                await accept(self._tapped(channel))
            finally:
                self.accepted -= 1

        await self._inner.listen(addresses, counted, task_status=task_status)

    async def dial(self, address: Address, peer_id: PeerId | None) -> SecureChannel:
        return self._tapped(await self._inner.dial(address, peer_id))

    def show(self, leaf: bytes, issuer: bytes, roots: Sequence[bytes]) -> None:
        self._inner.show(leaf, issuer, roots)

    def _tapped(self, channel: SecureChannel) -> SecureChannel:
        if not self._marks:
            return channel
        return replace(channel, channel=_ChannelTap(channel.channel, self._marks, self._found))


class StorageTap:
    """``overlay.ports.Storage`` whose rows are looked through before they are written."""

    def __init__(self, inner: Storage, marks: Marks, found: Found) -> None:
        self._inner = inner
        self._marks = marks
        self._found = found

    def read(self, table: str) -> Mapping[bytes, bytes]:
        return self._inner.read(table)

    def write(
        self, table: str, rows: Mapping[bytes, bytes | None], *, durable: bool = False
    ) -> None:
        for key, value in rows.items():
            self._marks.look(key + b"\0" + (value or b""), f"its table {table}", self._found)
        self._inner.write(table, rows, durable=durable)


class LogTap(logging.Handler):
    """Looks through what peers log: a prompt stands in no line, whoever's it is.

    ``who`` names the node whose task logs; None where it is none's.
    """

    def __init__(
        self, tenants: Iterable[str], who: Callable[[], str | None], found: Callable[[str], Found]
    ) -> None:
        super().__init__(logging.DEBUG)
        self._canaries = {name: canary(name) for name in tenants}
        self._who = who
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if record.exc_info is not None:
            line += "".join(traceback.format_exception(record.exc_info[1]))
        if "canary" not in line:
            return
        node = self._who()
        for name, mark in self._canaries.items():
            if node is not None and mark in line:
                self._found(node)(name, "a log line")

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hears everything that peers log, whatever is shown of it."""
        loggers = [logging.getLogger(name) for name in LOGGERS]
        levels = [each.level for each in loggers]
        for each in loggers:
            each.addHandler(self)
            each.setLevel(logging.DEBUG)
        try:
            yield
        finally:
            for each, level in zip(loggers, levels, strict=True):
                each.removeHandler(self)
                each.setLevel(level)


def node_of_task(cluster: SimCluster) -> str | None:
    """The node below whose main task the present one runs; None outside all of them."""
    roots = {host.boot.task: host.name for host in cluster.running() if host.boot is not None}
    task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
    while task is not None:
        if task in roots:
            return roots[task]
        nursery = task.parent_nursery
        task = None if nursery is None else nursery.parent_task
    return None


class Leaks:
    """Writes LEAK, once for each place."""

    def __init__(self, watching: Watching) -> None:
        self._watching = watching
        self._told: set[tuple[str, str, str]] = set()
        self._canaries = {name: canary(name) for name in watching.tenants.values()}

    def found(self, node: str) -> Found:
        """What to call with each mark that is seen at a node."""

        def found(tenant: str, where: str) -> None:
            if (node, tenant, where) not in self._told:
                self._told.add((node, tenant, where))
                self._watching.add(What.LEAK, node, tenant=tenant, where=where)

        return found

    def on_text(self, node: str) -> Callable[[str, str], None]:
        """Looks through the answers of one tenant for the canaries of the others."""
        found = self.found(node)

        def on_text(tenant_id: str, text: str) -> None:
            if "canary" in text:
                for name, mark in self._canaries.items():
                    if mark in text and name != self._watching.tenant_name(tenant_id):
                        found(name, "an answer to another tenant")

        return on_text

    def on_failure(self, event: Event, tenant: str) -> None:
        """Looks through the message of an error that a tenant's client got."""
        for name, mark in self._canaries.items():
            if name != tenant and mark in str(event.data["message"]):
                self.found(event.subject)(name, "an error that another tenant got")
