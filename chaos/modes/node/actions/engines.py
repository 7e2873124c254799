"""What faults of engines have in common: a key on the engine of each boot, and its undo."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from chaos.engine import FaultyEngine
from chaos.history import What
from chaos.modes.effects import Effects
from chaos.modes.node.cluster import SimCluster, SimHost
from overlay.node import Node


@contextmanager
def on_engines(
    cluster: SimCluster,
    names: Sequence[str],
    *,
    put: Callable[[SimHost, FaultyEngine], None],
    take: Callable[[FaultyEngine], None],
) -> Iterator[None]:
    """Puts something on the engine of each boot of some nodes; takes it from those that run."""

    def apply(host: SimHost, _: Node) -> None:
        if host.engine is not None:
            put(host, host.engine)

    try:
        with cluster.each_boot(names, apply):
            yield
    finally:
        for name in names:
            engine = cluster.hosts[name].engine
            if engine is not None:
                take(engine)


def noticed(
    cluster: SimCluster, effects: Effects, host: SimHost, fault_id: str, mark: str
) -> Callable[[], None]:
    """Counts an effect, and writes the fault's mark the first time that it is seen there."""
    seen = False

    def notice() -> None:
        nonlocal seen
        effects.add()
        if not seen:
            seen = True
            cluster.history.add(What.MARK, mark, node=host.name, fault=fault_id)

    return notice
