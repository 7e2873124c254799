"""``overlay.ports.Storage`` in one SQLite file of the home folder."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from overlay.errors import StorageError, StorageFull

_TABLE_NAME = re.compile(r"[a-z_]{1,32}")
_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE)


class SqliteStorage:
    """Small tables of bytes; every batch is one transaction.

    The write-ahead log makes a batch survive a crash of the process; ``durable`` makes it survive a
    crash of the machine by waiting for the disk. Writes are a few rows, so they run in the loop.
    """

    def __init__(self, path: Path) -> None:
        """Opens or makes the file.

        Raises:
            StorageError: When it cannot be opened, or is no database.
        """
        self._path = path
        try:
            path.touch(mode=0o600, exist_ok=True)
            self._database = sqlite3.connect(path, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA busy_timeout = 1000")
        except (sqlite3.Error, OSError) as error:
            raise self._failure(error) from None
        self._tables: set[str] = set()

    def read(self, table: str) -> Mapping[bytes, bytes]:
        try:
            self._make(table)
            rows = self._database.execute(f"SELECT key, value FROM {table} ORDER BY key")  # noqa: S608 - checked name
            return dict(rows.fetchall())
        except sqlite3.Error as error:
            raise self._failure(error) from None

    def write(
        self, table: str, rows: Mapping[bytes, bytes | None], *, durable: bool = False
    ) -> None:
        try:
            self._make(table)
            self._database.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._database.execute("BEGIN IMMEDIATE")
            try:
                self._write_rows(table, rows)
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise self._failure(error) from None

    def close(self) -> None:
        """Closes the file; nothing is lost by not doing so."""
        self._database.close()

    def _write_rows(self, table: str, rows: Mapping[bytes, bytes | None]) -> None:
        gone = [(key,) for key, value in rows.items() if value is None]
        kept = [(key, value) for key, value in rows.items() if value is not None]
        self._database.executemany(f"DELETE FROM {table} WHERE key = ?", gone)  # noqa: S608 - checked name
        self._database.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", kept)  # noqa: S608 - checked name

    def _make(self, table: str) -> None:
        if table in self._tables:
            return
        if _TABLE_NAME.fullmatch(table) is None:
            raise StorageError(f"not the name of a table: {table[:40]!r}")
        self._database.execute(
            f"CREATE TABLE IF NOT EXISTS {table} (key BLOB PRIMARY KEY, value BLOB NOT NULL) "
            "WITHOUT ROWID"
        )
        self._tables.add(table)

    def _failure(self, error: Exception) -> StorageError:
        code = getattr(error, "sqlite_errorcode", 0)
        full = code & 0xFF == sqlite3.SQLITE_FULL or code in _FULL
        if full:
            return StorageFull(f"no space is left for {self._path}")
        return StorageError(f"{self._path} cannot be used: {error}")
