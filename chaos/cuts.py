"""Which directed links the topology faults cut: the same in every mode."""

from __future__ import annotations

from collections.abc import Sequence

from chaos.faults import security, topology
from chaos.scenario.schedule import PlannedFault

Link = tuple[str, str]

CUTTING = (
    topology.Partition,
    topology.Bridge,
    topology.RingMajorities,
    topology.Isolate,
)
"""Faults that are sets of cut links, besides those that name their links themselves."""


def cut_links(planned: PlannedFault, names: Sequence[str]) -> tuple[Link, ...]:
    """The links that a fault cuts in a cluster of these nodes; those that it names, if any."""
    if planned.links:
        return planned.links
    match planned.fault:
        case topology.Partition():
            apart = _groups(planned.groups)
        case topology.Bridge():
            others = [name for name in names if name not in planned.nodes]
            middle = (len(others) + 1) // 2
            apart = _groups((others[:middle], others[middle:]))
        case security.RevokedInPartition():
            others = [name for name in names if name not in planned.nodes]
            middle = (len(others) + 1) // 2
            apart = _groups((others[:middle], [*others[middle:], *planned.nodes]))
        case topology.RingMajorities():
            apart = [(a, b) for a, b in _ring(names) if a in planned.nodes or b in planned.nodes]
        case topology.Isolate():
            apart = [
                (a, b)
                for a in names
                for b in names
                if a != b and (a in planned.nodes or b in planned.nodes)
            ]
        case _:
            apart = []
    return tuple(dict.fromkeys(apart))


def _groups(groups: Sequence[Sequence[str]]) -> list[Link]:
    return [
        (a, b)
        for group in groups
        for other in groups
        if group is not other
        for a in group
        for b in other
    ]


def _ring(names: Sequence[str]) -> list[Link]:
    """Links between nodes too far apart on a ring; each still sees just a majority.

    Of fewer than four nodes every one has to see all others.
    """
    count = len(names)
    reach = (count // 2 + 1) // 2
    return [
        (a, b)
        for i, a in enumerate(names)
        for j, b in enumerate(names)
        if min((i - j) % count, (j - i) % count) > reach
    ]
