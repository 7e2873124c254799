"""Gauges against their caps: those near a cap as plots, all of them as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.ticker import FuncFormatter, MaxNLocator

from chaos.report.facts import Facts, Gauge
from chaos.report.lanes import shade, time_axis
from chaos.report.svg import SMALL, drawing, ink, inline
from chaos.report.words import NONE, label, moment, quantity, share

BINS = 200
"""A gauge is drawn with the highest and the last value of so many spans of time, for each node."""

CAP_IN_SIGHT = 4.0
"""A cap is drawn where it is at most so many times the peak."""


def ranked(facts: Facts) -> tuple[Gauge, ...]:
    """Gauges by how much they ask for a look: over the cap, not back, nearest to the cap."""

    def need(gauge: Gauge) -> tuple[bool, bool, float]:
        taken = of_cap(gauge)
        return (taken is not None and taken > 1.0, not back(gauge), taken or 0.0)

    return tuple(sorted(facts.gauges, key=need, reverse=True))


def of_cap(gauge: Gauge) -> float | None:
    """The peak as a share of its node's cap; None where no cap is stated."""
    node, _, peak = gauge.peak()
    cap = gauge.caps.get(node)
    if cap is None:
        return None
    return peak / cap if cap > 0 else math.inf if peak > cap else 0.0


def back(gauge: Gauge) -> bool:
    """Whether every node's last value is no more than its baseline, where it has one."""
    return all(gauge.samples[node][-1][1] <= base for node, base in gauge.baselines.items())


def plot(gauge: Gauge, facts: Facts, name: str) -> str:
    """One gauge: the spread over the nodes, the one that peaked, its cap and baseline."""
    node, _, peak = gauge.peak()
    with drawing() as drawn:
        axes = SMALL.axes(drawn, 110)
        shade(axes, facts)
        downs = {life.node: life.downs for life in facts.lives}
        for each, samples in gauge.samples.items():
            xs, ys = _drawn(samples, facts, downs.get(each, ()))
            mine = each == node
            axes.plot(
                xs,
                ys,
                color=ink("ink" if mine else "muted"),
                linewidth=1.8 if mine else 0.7,
                drawstyle="steps-post",
                zorder=3 if mine else 2,
            )
        cap = gauge.caps.get(node)
        tops = [peak]
        if cap is not None and cap <= peak * CAP_IN_SIGHT:
            axes.axhline(cap, color=ink("bound"), linewidth=1.8, linestyle=(0, (6, 3)))
            axes.axhspan(
                cap,
                max(cap, peak) * 10,
                facecolor="none",
                edgecolor=ink("bound"),
                hatch="//",
                linewidth=0,
                alpha=0.5,
            )
            tops.append(cap)
        time_axis(axes, facts)
        top = max(tops)
        low = min(0.0, *(v for each in gauge.samples.values() for _, v in each))
        axes.set_ylim(low, (top * 1.18) if top > 0 else 1.0)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
        return inline(drawn, name, alt=told(gauge))


def told(gauge: Gauge) -> str:
    """A gauge in words: peak, cap, and whether it came back."""
    node, at_s, peak = gauge.peak()
    words = f"Peak {quantity(peak)} at {label(node)}, {moment(at_s)}"
    cap, taken = gauge.caps.get(node), of_cap(gauge)
    if cap is None or taken is None:
        words += "; no cap is stated"
    else:
        words += f"; {share(taken)} of the cap of {quantity(cap)}"
        words += ", which it exceeds" if taken > 1.0 else ""
        words += " (off the scale)" if cap > peak * CAP_IN_SIGHT else ""
    bases = sorted(gauge.baselines.items())
    over = [name for name, base in bases if gauge.samples[name][-1][1] > base]
    if over:
        words += f"; at the end above what it was before the storm at {', '.join(map(label, over))}"
    return f"{words}."


def table(gauges: Sequence[Gauge]) -> list[dict[str, str]]:
    """All gauges in numbers, each at the node where it peaked."""
    rows = []
    for each in gauges:
        node, _, peak = each.peak()
        cap, base = each.caps.get(node), each.baselines.get(node)
        rows.append(
            {
                "name": each.name,
                "node": node,
                "peak": quantity(peak),
                "cap": NONE if cap is None else quantity(cap),
                "share": share(of_cap(each)),
                "end": quantity(each.samples[node][-1][1]),
                "before": NONE if base is None else quantity(base),
            }
        )
    return rows


def _drawn(
    samples: Sequence[tuple[float, float]], facts: Facts, downs: Sequence[tuple[float, float]]
) -> tuple[list[float], list[float]]:
    """Points of a node's curve: a value holds until the next one, and not while it is down."""
    bins: dict[int, tuple[tuple[float, float], tuple[float, float]]] = {}
    for sample in samples:
        slot = int(sample[0] / facts.end_s * BINS)
        high, _ = bins.get(slot, (sample, sample))
        bins[slot] = (max(high, sample, key=lambda each: each[1]), sample)
    points = {at_s: value for pair in bins.values() for at_s, value in pair}
    points.setdefault(facts.stopped_s, samples[-1][1])
    points |= dict.fromkeys((from_s for from_s, _ in downs), math.nan)
    kept = sorted(points.items())
    return [at_s for at_s, _ in kept], [value for _, value in kept]


def _short(value: float) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{unit}"
    return f"{value:g}"
