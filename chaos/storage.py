"""``overlay.ports.Storage`` in memory: the disk can be full, and the machine can crash."""

from __future__ import annotations

from collections.abc import Mapping

from overlay.errors import StorageFull

Tables = dict[str, dict[bytes, bytes]]


class SimStorage:
    """Tables that survive the peer's process; ``full`` refuses every write."""

    def __init__(self) -> None:
        self._written: Tables = {}
        self._durable: Tables = {}
        self.full = False

    def read(self, table: str) -> Mapping[bytes, bytes]:
        return dict(sorted(self._written.get(table, {}).items()))

    def write(
        self, table: str, rows: Mapping[bytes, bytes | None], *, durable: bool = False
    ) -> None:
        if self.full:
            raise StorageFull("the simulated disk is full")
        kept = self._written.setdefault(table, {})
        for key, value in rows.items():
            if value is None:
                kept.pop(key, None)
            else:
                kept[key] = value
        if durable:
            self._durable = {name: dict(rows) for name, rows in self._written.items()}

    def crash_machine(self) -> None:
        """Power is lost: only what was written durably, or before a durable write, is left."""
        self._written = {name: dict(rows) for name, rows in self._durable.items()}
