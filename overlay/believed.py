"""Whom a host believes and what it knows to be revoked, read from its folder by a command."""

from __future__ import annotations

from overlay.home import Home
from overlay.revocation.exchange import TABLE as REVOCATIONS
from overlay.revocation.exchange import Exchange
from overlay.storage import SqliteStorage
from overlay.trust.book import TABLE as TRUST
from overlay.trust.book import TrustBook
from security.revocation import RevocationSet
from security.trust import Trust


def believed_in(home: Home, trust: Trust) -> tuple[TrustBook, RevocationSet]:
    """What is stored beside ``trust``, that of the folder; its peer may run meanwhile.

    Raises:
        StorageError: When it cannot be read.
        SecurityError: When it is damaged.
    """
    storage = SqliteStorage(home.database_path)
    try:
        book = TrustBook(trust, storage.read(TRUST))
        return book, Exchange(book, storage.read(REVOCATIONS)).known
    finally:
        storage.close()
