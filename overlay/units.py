"""Durations, sizes and moments as people write them: ``30s``, ``500ms``, ``1GiB``.

A bare number is refused except 0: ``drain = 30`` leaves the reader guessing, ``30s`` does not.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from fractions import Fraction

from overlay.errors import ConfigError

SECONDS_PER = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
BYTES_PER = {
    "B": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}

_QUANTITY = re.compile(r"(\d{1,18}(?:\.\d{1,9})?) ?([A-Za-z]*)")


def parse_duration(text: str) -> float:
    """Seconds of ``500ms``, ``1.5s``, ``2min``, ``1h``, ``90d`` or ``0``.

    Raises:
        ConfigError: when it is none of these.
    """
    number, unit = _split(text, "a duration such as 30s, 500ms or 2min")
    if unit == "" and float(number) == 0:
        return 0.0
    if unit not in SECONDS_PER:
        raise ConfigError(_bad_unit(text, unit, SECONDS_PER))
    return float(number) * SECONDS_PER[unit]


def parse_size(text: str) -> int:
    """Bytes of ``1GiB``, ``512MiB``, ``2GB`` or ``0``.

    Raises:
        ConfigError: when it is none of these, or not a whole number of bytes.
    """
    number, unit = _split(text, "a size such as 512MiB or 1GiB")
    if unit == "" and float(number) == 0:
        return 0
    if unit not in BYTES_PER:
        raise ConfigError(_bad_unit(text, unit, BYTES_PER))
    size_bytes = Fraction(number) * BYTES_PER[unit]
    if size_bytes.denominator != 1:
        raise ConfigError(f"{text!r} is not a whole number of bytes")
    return int(size_bytes)


def show_duration(seconds: float) -> str:
    """The shortest text that :func:`parse_duration` reads back as ``seconds``."""
    for unit in ("d", "h", "min"):
        count = seconds / SECONDS_PER[unit]
        if count >= 1 and count.is_integer():
            return f"{count:.0f}{unit}"
    if 0 < seconds < 1 and round(seconds * 1000, 6) / 1000 == seconds:
        return f"{round(seconds * 1000, 6):g}ms"
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def show_size(size_bytes: int) -> str:
    """The shortest text that :func:`parse_size` reads back as ``size_bytes``."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size_bytes >= BYTES_PER[unit] and size_bytes % BYTES_PER[unit] == 0:
            return f"{size_bytes // BYTES_PER[unit]}{unit}"
    return f"{size_bytes}B"


def show_time(unix_s: float) -> str:
    """A moment as people read it, to the minute: ``2026-03-01 09:30 UTC``."""
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M} UTC"


def _split(text: str, expected: str) -> tuple[str, str]:
    found = _QUANTITY.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"expected {expected}, not {text[:40]!r}")
    return found[1], found[2]


def _bad_unit(text: str, unit: str, known: dict[str, float] | dict[str, int]) -> str:
    units = ", ".join(known)
    if not unit:
        return f"{text.strip()[:40]!r} needs a unit: {units}"
    return f"unknown unit {unit[:20]!r}: use {units}"
