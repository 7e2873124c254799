"""Requests by their outcome: counted over time, and each as a bar of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from chaos.report.facts import Asked, Facts
from chaos.report.lanes import shade, time_axis
from chaos.report.svg import NARROW, WIDE, Drawing, Size, drawing, ink, inline
from chaos.report.words import count, label, moment, seconds

BARS_MAX = 5000
"""A run with more requests has no bar for each: the page would get slow."""

PIXELS_PER_S = 10.0
WIDEST = 6000.0
REPEAT = 900.0
"""On a wide plot the names of the nodes are written again every so many pixels."""

ROW_HIGH = 9.0
LANE_HIGH = 150.0
LEAST = 3.0


@dataclass(frozen=True, slots=True)
class Look:
    """How an outcome is drawn, readable without colour: a hatch, and a symbol at the end."""

    word: str
    symbol: str
    hatch: str
    marker: str
    ink: str


LOOKS = {
    "ok": Look("ok", "■", "", "", "ok"),
    "cold": Look("ok, nothing cached", "□", "", "", "ok"),
    "failed": Look("failed", "✕", "xxxx", "x", "failed"),
    "refused": Look("refused", "◇", "----", "d", "refused"),
    "cancelled": Look("cancelled", "○", "////", "o", "cancelled"),
    "unknown": Look("unknown", "▽", "\\\\\\\\", "v", "unknown"),
    "open": Look("open", "▷", "||||", ">", "open"),
}


def counted(facts: Facts, size: Size, name: str) -> str:
    """Requests by when they were sent, stacked by outcome."""
    bins = 60 if size.width > NARROW.width else 30
    edges = np.linspace(0.0, facts.end_s, bins + 1)
    with drawing() as drawn:
        axes = size.axes(drawn, 110)
        shade(axes, facts)
        below = np.zeros(bins)
        for look in present(facts):
            sent = [each.from_s for each in facts.requests if each.look == look]
            high = np.histogram(sent, bins=edges)[0]
            there = high > 0
            axes.bar(
                edges[:-1][there],
                high[there],
                width=edges[1] * 0.86,
                align="edge",
                bottom=below[there],
                **_fill(look),
            )
            below += high
        time_axis(axes, facts)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_ylabel("requests" if size.width > NARROW.width else "")
        return inline(drawn, name, alt=_counts(facts, f"per {edges[1]:.3g} seconds"))


def _fill(look: str) -> dict[str, Any]:  # keywords of a patch
    if look == "ok":
        return {"facecolor": ink("ok"), "edgecolor": "none"}
    return {
        "facecolor": ink("surface"),
        "edgecolor": ink(LOOKS[look].ink),
        "hatch": LOOKS[look].hatch or None,
        "linewidth": 0.8,
    }


def present(facts: Facts) -> tuple[str, ...]:
    """Looks that some request has, in their order."""
    had = {each.look for each in facts.requests}
    return tuple(look for look in LOOKS if look in had)


def swatch(look: str) -> str:
    """A sample of an outcome's bar for a legend, as SVG."""
    with drawing() as drawn:
        drawn.figure.set_size_inches(28 / 72, 12 / 72)
        axes = drawn.figure.add_axes((0.02, 0.06, 0.96, 0.88))
        axes.set_axis_off()
        axes.bar([0], [1], width=1, **_fill(look))
        axes.set_xlim(-0.53, 0.53)
        axes.set_ylim(-0.07, 1.07)
        return inline(drawn, f"swatch-{look}", alt="", kind="swatch")


def _counts(facts: Facts, how: str) -> str:
    by = [
        f"{sum(each.look == look for each in facts.requests)} {LOOKS[look].word}"
        for look in present(facts)
    ]
    return f"{count(len(facts.requests), 'request')} {how}: {', '.join(by) or 'none'}."


def each_one(facts: Facts, name: str) -> str | None:
    """Every request as a bar at its ingress; None where there are none, or too many.

    A thin line is the wait for the first token, the bar what came after it.
    """
    if not 0 < len(facts.requests) <= BARS_MAX:
        return None
    width = min(WIDEST, facts.end_s * PIXELS_PER_S) if scrolls(facts) else WIDE.width
    size = Size(width=width, left=64.0, top=8.0, bottom=42.0)
    scale = size.plot / facts.end_s
    lanes = [
        _packed([each for each in facts.requests if each.ingress == node], scale)
        for node in _ingresses(facts)
    ]
    with drawing() as drawn:
        highs = [min(LANE_HIGH, max(1, rows) * ROW_HIGH) + 10 for _, rows in lanes]
        axes = size.axes(drawn, sum(highs))
        axes.set_ylim(sum(highs), 0)
        axes.spines["left"].set_visible(False)
        axes.set_yticks([])
        shade(axes, facts)
        time_axis(axes, facts, ticks=int(size.plot / 120))
        y = 0.0
        for node, high, (packed, rows) in zip(_ingresses(facts), highs, lanes, strict=True):
            axes.axhline(y, color=ink("grid"), linewidth=1)
            _names(axes, node, y + high / 2, size, scale)
            _lane(drawn, axes, packed, (y + 5, (high - 10) / max(1, rows)), scale)
            y += high
        alt = _counts(facts, "as bars at their ingresses")
        return inline(drawn, name, alt=alt, fixed=True)


def scrolls(facts: Facts) -> bool:
    """Whether bars of this run need more room than a page is wide."""
    return facts.end_s * PIXELS_PER_S > 1.5 * WIDE.width


def _ingresses(facts: Facts) -> tuple[str, ...]:
    known = [life.node for life in facts.lives]
    others = {each.ingress for each in facts.requests} - set(known)
    used = {each.ingress for each in facts.requests}
    return (*(node for node in known if node in used), *sorted(others))


def _packed(requests: Sequence[Asked], scale: float) -> tuple[list[tuple[int, Asked]], int]:
    ends: list[float] = []
    packed = []
    for each in requests:
        row = next((n for n, end in enumerate(ends) if end <= each.from_s), len(ends))
        room = 8 / scale if LOOKS[each.look].marker else 1.5 / scale
        ends[row : row + 1] = [max(each.to_s, each.from_s + LEAST / scale) + room]
        packed.append((row, each))
    return packed, len(ends)


def _names(axes: Axes, node: str, y: float, size: Size, scale: float) -> None:
    axes.text(-8 / scale, y, label(node, 8), ha="right", va="center", fontweight="bold")
    for n in range(1, int(size.plot / REPEAT) + 1):
        if n * REPEAT < size.plot - REPEAT / 3:
            axes.text(
                n * REPEAT / scale,
                y,
                label(node, 8),
                ha="center",
                va="center",
                fontweight="bold",
                zorder=6,
                bbox={"facecolor": ink("surface"), "edgecolor": ink("grid"), "pad": 1.5},
            )


def _lane(
    drawn: Drawing,
    axes: Axes,
    packed: Sequence[tuple[int, Asked]],
    rows: tuple[float, float],
    scale: float,
) -> None:
    top, high = rows
    waits_x: list[float] = []
    waits_y: list[float] = []
    ends: dict[str, list[tuple[float, float]]] = {}
    for row, each in packed:
        y = top + high * (row + 0.5)
        first_s = each.to_s if each.ttft_s is None else min(each.to_s, each.from_s + each.ttft_s)
        waits_x += [each.from_s, first_s, float("nan")]
        waits_y += [y, y, y]
        long_s = max(each.to_s - first_s, LEAST / scale if each.outcome == "ok" else 0.0)
        if long_s > 0:
            thick = high * 0.72
            look = _fill(each.look)
            gid = drawn.titled(_told(each))
            axes.add_artist(Rectangle((first_s, y - thick / 2), long_s, thick, gid=gid, **look))
        if LOOKS[each.look].marker:
            ends.setdefault(each.outcome, []).append((each.to_s, y))
    axes.plot(waits_x, waits_y, color=ink("ink"), linewidth=0.9, solid_capstyle="butt")
    for outcome, spots in ends.items():
        axes.plot(
            [x for x, _ in spots],
            [y for _, y in spots],
            linestyle="none",
            zorder=5,
            marker=LOOKS[outcome].marker,
            markersize=6,
            markeredgewidth=1.6,
            markeredgecolor=ink(outcome),
            markerfacecolor=ink("surface"),
            clip_on=False,
        )


def _told(each: Asked) -> str:
    where = f"{label(each.ingress)} to {label(each.served_by) or 'nobody'}"
    cached = f", {each.cached_tokens} of {each.prompt_tokens} tokens cached"
    return (
        f"{label(each.id, 40)}: {each.outcome} {label(each.detail, 80)}; {where}; sent "
        f"{moment(each.from_s)}, took {seconds(each.to_s - each.from_s)}, first token "
        f"{seconds(each.ttft_s)}{cached if each.prompt_tokens else ''}"
    )
