"""The generation of this process: larger than any that this host has ever used."""

from __future__ import annotations

import struct

from overlay.ports import Clock, Storage

TABLE = "self"
KEY = b"generation"


AHEAD_MAX_S = 366 * 86_400.0
"""A generation is a time in milliseconds, or the next number where that is used up: one that is a
year ahead is no clock's, and a certificate would not last until then."""


def is_plausible(generation: int, now_unix_s: float) -> bool:
    """Whether a host can have drawn this generation by now."""
    return generation <= (now_unix_s + AHEAD_MAX_S) * 1000


def next_generation(storage: Storage, clock: Clock, *, above: int = 0) -> int:
    """Draws max(stored + 1, unix milliseconds, ``above`` + 1); durable before it is first used.

    Raises:
        StorageError: When it cannot be written; a generation that could be used twice is not.
    """
    stored = storage.read(TABLE).get(KEY)
    before = struct.unpack(">Q", stored)[0] if stored is not None and len(stored) == 8 else 0
    generation = max(before + 1, above + 1, int(clock.unix_s() * 1000))
    storage.write(TABLE, {KEY: struct.pack(">Q", generation)}, durable=True)
    return int(generation)
