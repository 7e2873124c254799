"""Figures as SVG inside a page: colours by name, no ids that collide, the same bytes every time."""

from __future__ import annotations

import io
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree as ET

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

UNITS_PER_INCH = 72
"""An SVG of matplotlib has so many units an inch; here a unit is a CSS pixel."""

INKS = (
    "ink",
    "muted",
    "grid",
    "surface",
    "shade",
    "alarm",
    "ok",
    "failed",
    "refused",
    "cancelled",
    "unknown",
    "open",
    "twin",
    "bound",
    "link",
    "topology",
    "clock",
    "process",
    "disk",
    "metadata",
    "security",
    "worker",
    "client",
)
"""Colours that the style sheet of the page defines, for light, dark and print."""

_STAND_IN = {name: f"#fe{index:02x}ed" for index, name in enumerate(INKS)}
_NAMES = {colour: name for name, colour in _STAND_IN.items()}
_COLOUR = re.compile(r"#fe[0-9a-f]{2}ed")
_DROPPED = {"metadata", "style"}
_POSITIONS = {"x", "y", "d", "width", "height"}
_LONG = re.compile(r"-?\d+\.\d{3,}")
SHARED_MIN = 4
GROWTH = 1.15
"""A plot may be shown so much larger than it was drawn."""


def ink(name: str) -> str:
    """A colour of :data:`INKS` for matplotlib; the page's style sheet says what it looks like."""
    return _STAND_IN[name]


_STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, and is wider than most
    "font.size": 12,
    "svg.fonttype": "none",  # text stays text: it is found, read aloud and printed sharp
    "text.parse_math": False,
    "axes.edgecolor": ink("muted"),
    "axes.labelcolor": ink("ink"),
    "axes.labelsize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": ink("grid"),
    "grid.linewidth": 0.8,
    "hatch.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 12,
    "legend.labelcolor": ink("ink"),
    "lines.linewidth": 1.6,
    "text.color": ink("ink"),
    "xtick.color": ink("muted"),
    "xtick.labelcolor": ink("ink"),
    "ytick.color": ink("muted"),
    "ytick.labelcolor": ink("ink"),
    "xtick.labelsize": 12,
    "ytick.labelsize": 12,
    "path.simplify": True,
}


@dataclass(slots=True)
class Drawing:
    """A figure that is being drawn; ``titles`` are hover texts of artists by their gid."""

    figure: Figure
    titles: dict[str, str] = field(default_factory=dict)

    def titled(self, text: str) -> str:
        """A gid for an artist that shows a text when it is pointed at."""
        gid = f"title-{len(self.titles)}"
        self.titles[gid] = text
        return gid


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Size of a plot in CSS pixels, with the margins around its axes."""

    width: float
    left: float
    right: float = 14.0
    top: float = 22.0
    bottom: float = 38.0

    @property
    def plot(self) -> float:
        """Width of the axes."""
        return self.width - self.left - self.right

    def axes(self, drawing: Drawing, height: float) -> Axes:
        """Axes of a height, with the figure made as high as they and the margins are."""
        whole = height + self.top + self.bottom
        drawing.figure.set_size_inches(self.width / UNITS_PER_INCH, whole / UNITS_PER_INCH)
        box = (self.left / self.width, self.bottom / whole, self.plot / self.width, height / whole)
        return drawing.figure.add_axes(box)


WIDE = Size(width=1040.0, left=64.0, bottom=42.0)
NARROW = Size(width=350.0, left=42.0, right=10.0, bottom=42.0)
SMALL = Size(width=430.0, left=58.0, right=16.0, bottom=42.0)


@contextmanager
def drawing() -> Iterator[Drawing]:
    """A figure in this page's style, whatever the reader's own matplotlib is set to."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)  # type: ignore[arg-type]  # its keys are literals there
        yield Drawing(Figure())


def inline(drawn: Drawing, name: str, *, alt: str, kind: str = "", fixed: bool = False) -> str:
    """A figure as an ``<svg>`` element.

    Args:
        drawn: The figure; call within its :func:`drawing`.
        name: Unique on the page: ids of patterns and clips follow from it.
        alt: What the figure shows, for who does not see it.
        kind: Class of the element.
        fixed: Shown as large as it was drawn; else it fits where it stands.
    """
    out = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a glyph that no font has is drawn as a box
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        drawn.figure.savefig(out, format="svg", dpi=UNITS_PER_INCH, metadata=nothing)
    root = ET.fromstring(out.getvalue())  # noqa: S314 - of our own making, without a DTD's entities
    _clean(root, drawn.titles)
    width = float(root.attrib.pop("width").removesuffix("pt"))
    root.attrib.pop("height")
    root.attrib.pop("version", None)
    _share_styles(root, name)
    if kind:
        root.set("class", kind)
    root.set("style", f"width:{width:g}px" if fixed else f"max-width:{width * GROWTH:g}px")
    root.set("role", "img")
    root.set("aria-label", alt)
    text = ET.tostring(root, encoding="unicode")
    return re.sub(r"\n\s*", "\n", text)


def _share_styles(root: ET.Element, name: str) -> None:
    """Declarations that many elements have alike become a class: half of the bytes."""
    counts = Counter(each.attrib.get("style", "") for each in root.iter())
    shared = [style for style, number in counts.items() if style and number >= SHARED_MIN]
    classes = {style: f"{name}-{number}" for number, style in enumerate(shared)}
    for each in root.iter():
        known = classes.get(each.attrib.get("style", ""))
        if known is not None:
            del each.attrib["style"]
            each.set("class", known)
    sheet = ET.Element("style")
    sheet.text = "".join(f".{known}{{{style}}}" for style, known in classes.items())
    root.insert(0, sheet)


def _clean(element: ET.Element, titles: Mapping[str, str]) -> None:
    element.tag = _local(element.tag)
    for key in list(element.attrib):
        value = element.attrib.pop(key)
        name = _local(key)
        if name == "id" and element.tag == "g":
            if value in titles:
                title = ET.Element("title")
                title.text = titles[value]
                element.insert(0, title)
        elif name in {"style", "fill", "stroke"}:
            _paint(element, name, value)
        elif name in _POSITIONS:
            element.set(name, _LONG.sub(_rounded, value).strip().replace("  ", " "))
        elif not value.startswith("rotate(-0 "):  # which turns nothing
            element.set(name, value)
    for child in list(element):
        if _local(child.tag) in _DROPPED:
            element.remove(child)
        else:
            _clean(child, titles)


def _paint(element: ET.Element, name: str, value: str) -> None:
    """Named colours instead of their stand-ins; only style declarations can hold those."""
    named = _COLOUR.sub(lambda found: f"var(--{_NAMES[found.group()]})", value)
    if name == "style":
        found = element.get("style", "")
        named = re.sub(r"'?DejaVu Sans'?(, [^;\"]*)?", "inherit", named)
        element.set("style", f"{found}{named}".replace("; ", ";").replace(": ", ":"))
    elif named != value:
        element.set("style", f"{name}:{named};{element.get('style', '')}")
    else:
        element.set(name, value)


def _rounded(found: re.Match[str]) -> str:
    return f"{float(found.group()):.2f}".rstrip("0").rstrip(".")


def _local(name: str) -> str:
    return name.rpartition("}")[2]
