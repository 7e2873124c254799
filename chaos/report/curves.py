"""Curves over time and distributions: agreement, and the time to the first token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from chaos.report.facts import Facts
from chaos.report.lanes import CHARACTER, shade, time_axis
from chaos.report.svg import NARROW, SMALL, Size, drawing, ink, inline
from chaos.report.words import count, moment, quantile, seconds, share

POINTS = 400
"""A distribution is drawn with about so many points at the most."""

LEAST_S = 1e-4
QUANTILES = (0.5, 0.9, 0.99, 1.0)


def convergence(facts: Facts, size: Size, name: str) -> str | None:
    """Share of replicas that equal their origins over time, with healing and its bound."""
    points = [(at, agreeing / pairs) for at, agreeing, pairs in facts.agreement if pairs]
    if not points:
        return None
    points.append((facts.stopped_s, points[-1][1]))  # what has not changed is not noted again
    with drawing() as drawn:
        axes = size.axes(drawn, 130)
        shade(axes, facts)
        axes.plot(
            [at for at, _ in points],
            [y * 100 for _, y in points],
            color=ink("ink"),
            drawstyle="steps-post",
        )
        time_axis(axes, facts)
        axes.set_ylim(-4, 108)
        axes.set_yticks([0, 50, 100])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
        axes.set_ylabel("agreeing" if size.width > NARROW.width else "")
        healed = facts.healed_s
        if healed is not None:
            _healing(axes, facts, healed, size)
        return inline(drawn, name, alt=told_convergence(facts))


def _healing(axes: Axes, facts: Facts, healed: float, size: Size) -> None:
    scale = size.plot / facts.end_s
    until = healed + facts.limits.converge_s
    axes.axvspan(
        healed,
        min(until, facts.end_s),
        facecolor="none",
        edgecolor=ink("bound"),
        hatch="//",
        linewidth=0,
        zorder=0.2,
        alpha=0.5,
    )
    _beside(axes, healed, 8, "healed", scale, facts.end_s, back=True)
    if until <= facts.end_s:
        axes.axvline(until, color=ink("bound"), linewidth=1.8)
        _beside(axes, until, 30, "bound", scale, facts.end_s, back=True)
    else:
        _beside(axes, facts.end_s, 30, "bound is later", scale, facts.end_s, back=True)
    if facts.converged is not None:
        at_s, _ = facts.converged
        axes.plot([at_s], [100], marker="D", markersize=8, color=ink("ok"), clip_on=False)
        if (min(until, facts.end_s) - at_s) * scale > 11 * CHARACTER:
            _beside(axes, at_s, 84, "all agree", scale, facts.end_s)


def _beside(
    axes: Axes, x: float, y: float, text: str, scale: float, end_s: float, *, back: bool = False
) -> None:
    room = (len(text) * CHARACTER + 8) / scale
    left = (back and x >= room) or x + room > end_s
    axes.text(
        x + (-5 if left else 5) / scale,
        y,
        text,
        ha="right" if left else "left",
        va="center",
        bbox={"facecolor": ink("surface"), "edgecolor": "none", "pad": 0.8},
    )


def told_convergence(facts: Facts) -> str:
    """The convergence curve in words."""
    told = [at for at in facts.agreement if at[2]]
    if not told:
        return "There was nothing to agree on."
    worst = min(told, key=lambda at: at[1] / at[2])
    words = [
        f"At worst {worst[1]:,} of {worst[2]:,} replicas agreed, at {moment(worst[0])}.",
    ]
    bound = facts.limits.converge_s
    if facts.converged is not None:
        after_s = facts.converged[1]
        words.append(
            f"All agreed {seconds(after_s)} after healing: {share(after_s / bound)} of the bound "
            f"of {seconds(bound)}."
        )
    elif facts.healed_s is not None:
        words.append(f"They did not all agree again; the bound is {seconds(bound)} after healing.")
    else:
        words.append("The run was not healed, so nothing is demanded.")
    return " ".join(words)


def paired(facts: Facts) -> list[tuple[float, float, float]]:
    """(when sent, seconds to the first token, the twin's) of requests that have both."""
    return [
        (each.from_s, max(each.ttft_s, LEAST_S), max(each.twin_s, LEAST_S))
        for each in facts.requests
        if each.ttft_s is not None and each.twin_s is not None
    ]


def ttft_over_time(facts: Facts, bound_s: float | None, size: Size, name: str) -> str | None:
    """Each request's time to first token, and the twin's, by when the request was sent."""
    pairs = paired(facts)
    if not pairs:
        return None
    at = [when for when, _, _ in pairs]
    mark = max(1.6, min(4.0, size.width * 2.5 / len(pairs)))
    values = [value for _, *both in pairs for value in both] + ([bound_s] if bound_s else [])
    with drawing() as drawn:
        axes = size.axes(drawn, 160)
        shade(axes, facts)
        axes.set_yscale("log")
        axes.plot(
            at,
            [twin for _, _, twin in pairs],
            linestyle="none",
            marker="+",
            markersize=mark + 1,
            markeredgecolor=ink("twin"),
            markeredgewidth=0.8,
        )
        axes.plot(
            at,
            [ours for _, ours, _ in pairs],
            linestyle="none",
            marker="o",
            markersize=mark,
            markerfacecolor="none",
            markeredgecolor=ink("ink"),
            markeredgewidth=0.8,
        )
        if bound_s:
            axes.axhline(bound_s, color=ink("bound"), linewidth=1.6, linestyle=(0, (6, 3)))
        axes.set_ylim(min(values) / 1.5, max(values) * 1.6)
        _plain_log(axes, "y")
        time_axis(axes, facts)
        axes.set_ylabel("seconds" if size.width > NARROW.width else "")
        return inline(drawn, name, alt=told_ttft(facts, bound_s))


def told_ttft(facts: Facts, bound_s: float | None) -> str:
    """Time to first token against the twin, in words."""
    pairs = paired(facts)
    slower = sum(ours > twin for _, ours, twin in pairs)
    ours, twin = _sorted(pairs)
    ours_s, twin_s = quantile(ours, 0.99), quantile(twin, 0.99)
    limit = "" if bound_s is None else f" NO-WORSE allows {seconds(bound_s)}."
    return (
        f"{count(slower, 'request')} of {len(pairs):,} had the first token later than without the "
        f"overlay. The 99th percentile is {seconds(ours_s)}, the twin's {seconds(twin_s)}.{limit}"
    )


def _sorted(pairs: Sequence[tuple[float, float, float]]) -> tuple[list[float], list[float]]:
    return sorted(ours for _, ours, _ in pairs), sorted(twin for _, _, twin in pairs)


def ttft_table(facts: Facts) -> list[dict[str, str]]:
    """Rows of quantiles: the run's, the twin's, and the ratio of the two."""
    pairs = paired(facts)
    if not pairs:
        return []
    ours, twin = _sorted(pairs)
    rows = []
    for q in QUANTILES:
        here, there = quantile(ours, q), quantile(twin, q)
        rows.append(
            {
                "name": "slowest" if q == 1.0 else f"{q * 100:g}th percentile",
                "ours": seconds(here),
                "twin": seconds(there),
                "ratio": f"{here / there:.2f}",
            }
        )
    return rows


def ttft_spread(facts: Facts, bound_s: float | None, name: str) -> str | None:
    """Share of requests that had their first token within a time, beside the twin."""
    pairs = paired(facts)
    if not pairs:
        return None
    ours, twin = _sorted(pairs)
    with drawing() as drawn:
        axes = SMALL.axes(drawn, 170)
        axes.set_xscale("log")
        for values, colour, dash in ((twin, "twin", (0, (5, 2))), (ours, "ink", "solid")):
            share_of = np.arange(1, len(values) + 1) / len(values) * 100
            axes.plot(
                *_thinned(values, share_of.tolist()),
                color=ink(colour),
                linestyle=dash,
                drawstyle="steps-post",
                label="this run" if colour == "ink" else "twin",
            )
        if bound_s:
            axes.axvline(bound_s, color=ink("bound"), linewidth=1.6, linestyle=(0, (6, 3)))
        axes.axhline(99, color=ink("grid"), linewidth=0.8)
        axes.set_ylim(0, 104)
        axes.set_yticks([0, 50, 99])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
        low, high = min(ours[0], twin[0]) / 1.5, max(ours[-1], twin[-1], bound_s or 0.0) * 1.6
        axes.set_xlim(low, high)
        _plain_log(axes, "x")
        axes.set_xlabel("seconds to the first token")
        axes.set_ylabel("requests")
        axes.legend(loc="upper left", bbox_to_anchor=(0, 0.96), handlelength=2.6)
        return inline(
            drawn, name, alt=f"Distribution of time to first token. {told_ttft(facts, bound_s)}"
        )


def _thinned(values: Sequence[float], shares: Sequence[float]) -> tuple[list[float], list[float]]:
    """A curve of few points, from nothing at the first value on."""
    step = max(1, len(values) // POINTS)
    keep = sorted({0, len(values) - 1, *range(0, len(values), step)})
    return [values[0], *(values[n] for n in keep)], [0.0, *(shares[n] for n in keep)]


def _plain_log(axes: Axes, which: str) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(base=10, subs=(1.0,), numticks=6))
    low, high = sorted(axis.get_view_interval())
    if high / low < 100:
        axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
