"""``overlay.ports.Storage`` in memory: the disk can be full, and the machine can lose its power.

What a host has stored outlives its peers. Each boot writes through a :class:`Session`, so that a
peer that was killed writes nothing more while its tasks unwind.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from overlay.errors import StorageError, StorageFull

Tables = dict[str, dict[bytes, bytes]]

HISTORY_MAX = 10_000
"""Rows of the past that are kept for rolling back."""


@dataclass(frozen=True, slots=True)
class _Old:
    """A row as it was before it was written at ``at_s``; None where there was none."""

    at_s: float
    table: str
    key: bytes
    value: bytes | None


class SimStorage:
    """Tables that survive the peer's process; while ``full`` every write is refused.

    ``now_s`` is needed for :meth:`roll_back` only. ``on_write`` is called before each batch and
    says whether it is written.
    """

    def __init__(self, now_s: Callable[[], float] | None = None) -> None:
        self._written: Tables = {}
        self._durable: Tables = {}
        self._now_s = now_s
        self._past: deque[_Old] = deque(maxlen=HISTORY_MAX)
        self._full_for: dict[str, Callable[[], None]] = {}
        self.full = False
        self.on_write: Callable[[], bool] | None = None

    def read(self, table: str) -> Mapping[bytes, bytes]:
        return dict(sorted(self._written.get(table, {}).items()))

    def write(
        self, table: str, rows: Mapping[bytes, bytes | None], *, durable: bool = False
    ) -> None:
        if self.full or self._full_for:
            for on_refusal in tuple(self._full_for.values()):
                on_refusal()
            raise StorageFull("the simulated disk is full")
        if self.on_write is not None and not self.on_write():
            return
        if not all(isinstance(each, bytes | None) for each in (*rows, *rows.values())):
            raise StorageError("keys and values are bytes")
        kept = self._written.setdefault(table, {})
        for key, value in rows.items():
            if self._now_s is not None:
                self._past.append(_Old(self._now_s(), table, key, kept.get(key)))
            if value is None:
                kept.pop(key, None)
            else:
                kept[key] = value
        if durable:
            self._durable = {name: dict(rows) for name, rows in self._written.items()}

    def fill(self, key: str, on_refusal: Callable[[], None] = lambda: None) -> None:
        """Refuses every write until each key that filled it has been freed."""
        self._full_for[key] = on_refusal

    def free(self, key: str) -> None:
        """Takes back a :meth:`fill`. Unknown: no effect."""
        self._full_for.pop(key, None)

    def crash_machine(self) -> None:
        """Power is lost: only what was written durably, or before a durable write, is left."""
        self._written = {name: dict(rows) for name, rows in self._durable.items()}

    def copy(self) -> SimStorage:
        """A disk of its own that holds what this one does now."""
        made = SimStorage(self._now_s)
        made._written = {name: dict(rows) for name, rows in self._written.items()}
        made._durable = {name: dict(rows) for name, rows in self._written.items()}
        return made

    def put_back(self, copy: SimStorage) -> None:
        """Everything is as it is in a copy, and nothing is known of before."""
        self._written = {name: dict(rows) for name, rows in copy._written.items()}
        self._durable = {name: dict(rows) for name, rows in copy._written.items()}
        self._past.clear()

    def wipe(self) -> None:
        """Everything is gone."""
        self._written, self._durable = {}, {}
        self._past.clear()

    def roll_back(self, to_s: float) -> int:
        """Everything is as it was at that time, as far as it is remembered.

        Returns:
            How many rows changed.
        """
        changed = 0
        while self._past and self._past[-1].at_s > to_s:
            old = self._past.pop()
            table = self._written.setdefault(old.table, {})
            if old.value is None:
                table.pop(old.key, None)
            else:
                table[old.key] = old.value
            changed += 1
        self._durable = {name: dict(rows) for name, rows in self._written.items()}
        return changed


class Session:
    """``overlay.ports.Storage`` of one boot of a host: dead, it writes nothing."""

    def __init__(self, storage: SimStorage) -> None:
        self._storage = storage
        self.dead = False

    def read(self, table: str) -> Mapping[bytes, bytes]:
        return self._storage.read(table)

    def write(
        self, table: str, rows: Mapping[bytes, bytes | None], *, durable: bool = False
    ) -> None:
        if not self.dead:
            self._storage.write(table, rows, durable=durable)
