"""Parts of schedules and histories in a few words."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from chaos.faults.fault import Fault
from chaos.history import Event
from chaos.scenario.scenario import Landmark
from chaos.scenario.schedule import PlannedFault

LINKS_MAX = 4
DATA_CHARS_MAX = 240


def when(fault: PlannedFault) -> str:
    """When a fault begins, in seconds of the storm."""
    return str(fault.at) if isinstance(fault.at, Landmark) else f"{fault.at:g} s"


def lasting(fault: PlannedFault) -> str:
    """How long it lasts."""
    if fault.fault.instant:
        return "once"
    return "until healing" if fault.for_s is None else f"{fault.for_s:g} s"


def aimed(fault: PlannedFault, names: Sequence[str]) -> str:
    """What it is aimed at."""
    if fault.groups:
        return " | ".join(" ".join(group) for group in fault.groups)
    if fault.links:
        return _links(fault.links, names)
    return "all nodes" if set(fault.nodes) == set(names) else " ".join(fault.nodes)


def _links(links: Sequence[tuple[str, str]], names: Sequence[str]) -> str:
    """Links, both directions as one; all of the cluster or of a node in a word."""
    given = set(links)
    every = {(a, b) for a in names for b in names if a != b}
    if given == every:
        return "all links"
    for name in names:
        if given == {link for link in every if name in link}:
            return f"{name}<>*"
        if given == {link for link in every if link[0] == name}:
            return f"{name}>*"
        if given == {link for link in every if link[1] == name}:
            return f"*>{name}"
    shown: list[str] = []
    for a, b in links:
        if (b, a) not in given:
            shown.append(f"{a}>{b}")
        elif a < b:
            shown.append(f"{a}<>{b}")
    more = f" and {len(shown) - LINKS_MAX} more" if len(shown) > LINKS_MAX else ""
    return " ".join(shown[:LINKS_MAX]) + more


def settings(fault: Fault) -> str:
    """Its quantities with their units."""
    return ", ".join(
        f"{name} {getattr(fault, name):g} {limits.unit}"
        if not name.endswith(("_ms", "_s"))
        else f"{name} {getattr(fault, name):g}"
        for name, limits in fault.ranges()
    )


def event_words(event: Event) -> str:
    """An event on one line."""
    data = msgspec.json.encode(event.data).decode()
    if len(data) > DATA_CHARS_MAX:
        data = data[:DATA_CHARS_MAX] + "…"
    return f"{event.at_s:10.3f} s  {event.what.value} {event.subject}  {data}"


def duration(seconds: float) -> str:
    """A time for people."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02} min"
