"""Swim lanes: one for each node, with its lives, the faults that it was under, and witnesses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import blended_transform_factory

from chaos.faults.fault import Family
from chaos.invariants.invariant import Status
from chaos.report.facts import Band, Facts, Life
from chaos.report.svg import Drawing, Size, drawing, ink, inline
from chaos.report.words import count, label, listed, moment, settings
from chaos.verdict import Judged

CHARACTER = 7.3
"""Width of a character of a label in pixels, at the most."""

BAND = 17.0
LIFE = 18.0
PAD = 5.0

HATCHES = {
    Family.LINK: "///",
    Family.TOPOLOGY: "xxx",
    Family.CLOCK: "|||",
    Family.PROCESS: "\\\\\\",
    Family.DISK: "+++",
    Family.METADATA: "//||",
    Family.SECURITY: "xx--",
    Family.WORKER: "---",
    Family.CLIENT: "\\\\--",
}
"""Of lines only: a hatch of dots or rings is a quarter of a megabyte of curves."""


@dataclass(frozen=True, slots=True)
class Flag:
    """A contradiction in time: what was violated, where and when."""

    text: str
    node: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Placed:
    """Something with a label in a row of a lane, in pixels from the left of the axes."""

    row: int
    from_x: float
    to_x: float
    text: str
    text_x: float


def place(
    spans: Sequence[tuple[float, float, tuple[str, ...]]], width: float
) -> tuple[list[Placed], int]:
    """Rows for labelled spans so that neither they nor their labels overlap.

    A span is (from, to, texts): the first text that fits inside is written there, else the shortest
    beside it. Returns the placed spans in the order given, and how many rows there are.
    """
    ends: list[float] = []
    placed: list[Placed] = []
    for from_x, to_x, texts in spans:
        inside = [text for text in texts if len(text) * CHARACTER + 8 <= to_x - from_x]
        text = inside[0] if inside else texts[-1]
        room = len(text) * CHARACTER + 4
        text_x = from_x + 4 if inside else min(to_x + 5, width - room)
        begins, stops = min(from_x, text_x), max(to_x, text_x + room)
        row = next((n for n, end in enumerate(ends) if end <= begins), len(ends))
        ends[row : row + 1] = [stops + 3]
        placed.append(Placed(row, from_x, to_x, text, text_x))
    return placed, len(ends)


def flags_of(judged: Judged) -> tuple[Flag, ...]:
    """The first contradiction of each violated invariant that has a time."""
    found = []
    events = judged.run.events
    for finding in judged.findings:
        if finding.status is not Status.VIOLATED:
            continue
        for witness in finding.witnesses:
            at = [events[index].at_s for index in witness.events if 0 <= index < len(events)]
            if at:
                found.append(Flag(finding.invariant.value, witness.node, max(at)))
                break
    return tuple(found)


def lanes(facts: Facts, flags: tuple[Flag, ...], size: Size, name: str) -> str:
    """The swim lanes as SVG."""
    scale = size.plot / facts.end_s
    rows = [_faults(facts, life.node, size.plot) for life in facts.lives]
    heights = [2 * PAD + LIFE + BAND * count for _, _, count in rows]
    heading, heading_rows = _heading(facts, flags, size.plot)
    top = 6.0 + 17.0 * heading_rows
    size = Size(width=size.width, left=size.left, right=size.right, top=top, bottom=size.bottom)
    with drawing() as drawn:
        total = sum(heights)
        axes = size.axes(drawn, total)
        axes.set_ylim(total, 0)
        time_axis(axes, facts)
        axes.spines["left"].set_visible(False)
        axes.set_yticks([])
        y = 0.0
        for life, height, (bands, placed, _) in zip(facts.lives, heights, rows, strict=True):
            axes.axhline(y, color=ink("grid"), linewidth=1)
            axes.text(
                -8 / scale,
                y + height - PAD - LIFE / 2,
                label(life.node, 8),
                ha="right",
                va="center",
                fontweight="bold",
            )
            for band, spot in zip(bands, placed, strict=True):
                _band(drawn, axes, band, spot, y + PAD + BAND * spot.row, scale)
            _life(drawn, axes, life, y + height - PAD - LIFE / 2, scale)
            y += height
        _heads(axes, flags, heading, scale)
        y = 0.0
        for life, height in zip(facts.lives, heights, strict=True):
            for flag in flags:
                if flag.node == life.node:
                    _witness(axes, flag, y, height)
            y += height
        return inline(drawn, name, alt=described(facts, flags))


def time_axis(axes: Axes, facts: Facts, ticks: int = 6) -> None:
    """Seconds of the run along the bottom, the same on every plot over time."""
    axes.set_xlim(0, facts.end_s)
    axes.xaxis.set_major_locator(MaxNLocator(ticks))
    axes.set_xlabel("seconds of the run", loc="center" if ticks == 6 else "left")
    for at_s, _ in facts.phases:
        axes.axvline(at_s, color=ink("muted"), linewidth=0.8, linestyle=(0, (4, 3)), zorder=0.5)


def shade(axes: Axes, facts: Facts) -> None:
    """Spans during which a fault was active, behind everything."""
    for from_s, to_s in facts.disturbed():
        least = facts.end_s / 400
        axes.axvspan(
            from_s, max(to_s, from_s + least), facecolor=ink("shade"), edgecolor="none", zorder=0.1
        )


def _faults(facts: Facts, node: str, width: float) -> tuple[list[Band], list[Placed], int]:
    scale = width / facts.end_s
    bands = [band for band in facts.bands if node in band.nodes]
    bands.sort(key=lambda band: (band.from_s, band.number))
    spans = [
        (
            band.from_s * scale,
            max(band.to_s * scale, band.from_s * scale + 5),
            (f"{band.number} {band.outcome.fault.kind}", str(band.number)),
        )
        for band in bands
    ]
    placed, rows = place(spans, width)
    return bands, placed, max(1, rows)


def _band(drawn: Drawing, axes: Axes, band: Band, spot: Placed, y: float, scale: float) -> None:
    fault = band.outcome.fault
    colour = ink(fault.family.value)
    until = "" if band.instant else f" to {moment(band.to_s)}"
    title = f"{band.number}: {fault.kind} ({fault.family.value}) {settings(fault.settings())}, "
    gid = drawn.titled(title + f"{moment(band.from_s)}{until}")
    middle = y + BAND / 2
    if band.instant:
        (mark,) = axes.plot(
            [band.from_s], [middle], marker="D", markersize=6, color=colour, clip_on=False
        )
        mark.set_gid(gid)
    else:
        axes.add_artist(
            Rectangle(
                (band.from_s, y + 1.5),
                (spot.to_x - spot.from_x) / scale,
                BAND - 3,
                facecolor=ink("surface"),
                edgecolor=colour,
                hatch=HATCHES[fault.family],
                linewidth=1,
                gid=gid,
            )
        )
    axes.text(
        spot.text_x / scale,
        middle,
        spot.text,
        ha="left",
        va="center",
        bbox={"facecolor": ink("surface"), "edgecolor": "none", "pad": 0.6},
    )


def _life(drawn: Drawing, axes: Axes, life: Life, y: float, scale: float) -> None:
    for from_s, to_s, generation in life.ups:
        born = f", generation {label(generation)}" if generation else ""
        gid = drawn.titled(f"{label(life.node)} up from {moment(from_s)}{born}")
        corner = (from_s, y - 2.5)
        axes.add_artist(Rectangle(corner, to_s - from_s, 5, facecolor=ink("ink"), gid=gid))
    for from_s, to_s in life.downs:
        axes.add_artist(
            Rectangle(
                (from_s, y - 2.5),
                to_s - from_s,
                5,
                facecolor="none",
                edgecolor=ink("alarm"),
                hatch="xxxxxx",
                linewidth=0.6,
                gid=drawn.titled(f"{label(life.node)} down for {to_s - from_s:.3f} s"),
            )
        )
        if (to_s - from_s) * scale > 4 * CHARACTER + 14:
            axes.text(
                (from_s + to_s) / 2,
                y,
                "down",
                ha="center",
                va="center",
                color=ink("alarm"),
                bbox={"facecolor": ink("surface"), "edgecolor": "none", "pad": 0.6},
            )
    shapes = {"up": ("^", "ink"), "down": ("X", "alarm"), "stopped": ("s", "muted")}
    for at_s, change, why in life.changes:
        shape, colour = shapes[change]
        (mark,) = axes.plot(
            [at_s],
            [y],
            marker=shape,
            markersize=8,
            color=ink(colour),
            clip_on=False,
            markeredgecolor=ink("surface"),
            markeredgewidth=0.8,
        )
        told = f": {label(why, 60)}" if why else ""
        mark.set_gid(drawn.titled(f"{label(life.node)} {change} at {moment(at_s)}{told}"))


def _heading(
    facts: Facts, flags: tuple[Flag, ...], width: float
) -> tuple[list[tuple[float, str, str, Placed]], int]:
    """Phases and contradictions with their places above the lanes."""
    scale = width / facts.end_s
    told = [(at_s, label(name), "muted") for at_s, name in facts.phases]
    told += [(flag.at_s, f"! {flag.text}", "alarm") for flag in flags]
    told.sort()
    spans = [(at_s * scale, at_s * scale, (text,)) for at_s, text, _ in told]
    placed, rows = place(spans, width)
    return [(*each, spot) for each, spot in zip(told, placed, strict=True)], rows


def _heads(
    axes: Axes,
    flags: tuple[Flag, ...],
    heading: list[tuple[float, str, str, Placed]],
    scale: float,
) -> None:
    across = blended_transform_factory(axes.transData, axes.transData)
    for at_s, text, colour, spot in heading:
        y = -8.0 - 17.0 * spot.row
        axes.plot(
            [at_s, at_s],
            [0, y + 6],
            color=ink(colour),
            linewidth=0.8,
            clip_on=False,
            transform=across,
        )
        bold = "bold" if colour == "alarm" else "normal"
        axes.text(
            spot.text_x / scale,
            y,
            text,
            ha="left",
            va="center",
            color=ink(colour),
            fontweight=bold,
            transform=across,
        )
    for flag in flags:
        axes.axvline(flag.at_s, color=ink("alarm"), linewidth=1.4, zorder=0.6)


def _witness(axes: Axes, flag: Flag, y: float, height: float) -> None:
    axes.plot(
        [flag.at_s],
        [y + height - PAD - LIFE / 2],
        marker="*",
        markersize=15,
        color=ink("alarm"),
        markeredgecolor=ink("surface"),
        clip_on=False,
        zorder=9,
    )


def described(facts: Facts, flags: tuple[Flag, ...]) -> str:
    """The lanes in words."""
    parts = [
        f"Swim lanes of {count(len(facts.lives), 'node')} over {facts.end_s:.0f} seconds.",
        f"{count(len(facts.bands), 'fault')} applied.",
    ]
    fell = [life.node for life in facts.lives if life.downs]
    parts.append(f"Nodes that were down for a while: {listed(list(map(label, fell)))}.")
    parts += [
        f"{flag.text} is contradicted at {moment(flag.at_s)}"
        + (f" at {label(flag.node)}." if flag.node else ".")
        for flag in flags
    ]
    return " ".join(parts)
