"""Numbers and foreign text as a page shows them.

Whatever comes from a history may be hostile: names and messages of a run are a stranger's words.
The template escapes markup; here characters go that would not print or would turn the line around.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from chaos.history import Event

TEXT_MAX = 400
LABEL_MAX = 24
SHARE_LEAST = 0.001
NONE = "\u2013"
"""Shown where there is nothing to show."""


def clean(value: object, limit: int = TEXT_MAX) -> str:
    """Text of which every character prints, cut to a length.

    Control and direction characters, and lone surrogates, are shown as escapes.
    """
    text = str(value)
    shown = "".join(each if each.isprintable() else _escape(each) for each in text[: limit + 1])
    if len(shown) <= limit:
        return shown
    return f"{shown[:limit]}… ({len(text)} characters)"


def label(value: object, limit: int = LABEL_MAX) -> str:
    """A short name for a plot: plain ASCII, so that every font of a reader has it."""
    text = str(value)[: limit + 1].encode("ascii", "backslashreplace").decode()
    text = "".join(each if each.isprintable() else _escape(each) for each in text)
    return text if len(text) <= limit else f"{text[: limit - 2]}.."


def _escape(character: str) -> str:
    return (
        character.encode("ascii", "backslashreplace").decode()
        if character > "\x7f"
        else (f"\\x{ord(character):02x}")
    )


def facts(event: Event) -> str:
    """What an event holds, as JSON in ASCII, cut to a length."""
    return clean(json.dumps(event.data, sort_keys=True, default=str))


def seconds(value: float | None) -> str:
    """A duration with a sensible number of digits."""
    if value is None:
        return NONE
    if abs(value) >= 100:
        return f"{value:,.0f} s"
    if abs(value) >= 1:
        return f"{value:.2f} s"
    return f"{value * 1000:.3g} ms"


def moment(value: float) -> str:
    """A time of a run, to the millisecond."""
    return f"{value:.3f} s"


def share(value: float | None) -> str:
    """A share of a bound in per cent."""
    if value is None:
        return NONE
    if 0 < value < SHARE_LEAST:
        return f"under {SHARE_LEAST * 100:g} %"
    return f"{value * 100:.3g} %"


def quantity(value: float) -> str:
    """A plain number: whole where it is or is large, else three digits."""
    if abs(value) < 1e15 and (value == int(value) or abs(value) >= 1000):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def count(number: int, one: str, many: str = "") -> str:
    """``1 request``, ``2 requests``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def listed(words: Sequence[str], nothing: str = "none") -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    if not words:
        return nothing
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def settings(values: Mapping[str, float]) -> str:
    """Quantities of a fault: ``delay_ms 50, spread_ms 10``."""
    return ", ".join(f"{name} {value:g}" for name, value in values.items())


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest of some sorted values that a share ``q`` of them does not exceed."""
    index = -(-int(len(values) * q * 1_000_000) // 1_000_000) - 1
    return values[min(max(index, 0), len(values) - 1)]
