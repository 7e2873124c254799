"""The generation of this process: larger than any that this host has ever used."""

from __future__ import annotations

import math
import struct

from overlay.ports import Clock, Storage

TABLE = "self"
KEY = b"generation"


AHEAD_MAX_S = 366 * 86_400.0
"""A generation is a time in milliseconds, or the next number where that is used up: one that is a
year ahead is no clock's, and a certificate would not last until then."""


CLOCK_BELIEVED_S = 183 * 86_400.0
"""How long after the end of this host's certificate its clock is still believed: what is drawn by a
clock that is years ahead would be refused by everybody when the clock is right again."""


def is_plausible(generation: int, now_unix_s: float) -> bool:
    """Whether a host can have drawn this generation by now."""
    return generation <= (now_unix_s + AHEAD_MAX_S) * 1000


def next_generation(
    storage: Storage, clock: Clock, *, above: int = 0, leaf_ends_unix_s: float = math.inf
) -> int:
    """Draws max(stored + 1, unix milliseconds, ``above`` + 1); durable before it is first used.

    Args:
        storage: Of this host.
        clock: Of this host; it may be wrong either way.
        above: A generation of this host that was met elsewhere.
        leaf_ends_unix_s: When this host's certificate ends, which bounds what its clock may say.

    Raises:
        StorageError: When it cannot be written; a generation that could be used twice is not.
    """
    stored = storage.read(TABLE).get(KEY)
    before = struct.unpack(">Q", stored)[0] if stored is not None and len(stored) == 8 else 0
    latest_s = leaf_ends_unix_s + CLOCK_BELIEVED_S
    generation = max(before + 1, above + 1, int(min(clock.unix_s(), latest_s) * 1000))
    storage.write(TABLE, {KEY: struct.pack(">Q", generation)}, durable=True)
    return int(generation)
