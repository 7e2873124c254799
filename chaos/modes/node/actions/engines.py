"""What faults of engines have in common: a key on the engine of each boot, and its undo."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

from chaos.engine import FaultyEngine
from chaos.history import What
from chaos.modes.effects import Effects, Missed
from chaos.modes.node.actions.action import Action
from chaos.modes.node.cluster import SimCluster, SimHost
from chaos.scenario.schedule import PlannedFault
from overlay.node import Node

Put = Callable[[FaultyEngine, PlannedFault, Callable[[], None]], None]
"""Puts a fault on an engine, which calls what it is given each time that the fault shows."""

Take = Callable[[FaultyEngine, str], None]
"""Takes a fault off an engine by its key."""


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


def while_on(mark: str, put: Put, take: Take) -> Action:
    """The action of a fault that is on its engines until it is taken off them again."""

    @asynccontextmanager
    async def action(
        cluster: SimCluster, planned: PlannedFault, effects: Effects
    ) -> AsyncIterator[None]:
        def put_on(host: SimHost, engine: FaultyEngine) -> None:
            put(engine, planned, noticed(cluster, effects, host, planned.id, mark))

        with on_engines(
            cluster, planned.nodes, put=put_on, take=lambda engine: take(engine, planned.id)
        ):
            yield

    return action


def with_server(cluster: SimCluster, planned: PlannedFault) -> tuple[str, ...]:
    """The fault's nodes that have a remote server. Raises :class:`Missed` where none has."""
    remote = cluster.schedule.cluster.remote
    found = tuple(name for name in planned.nodes if name in remote)
    if not found:
        raise Missed("none of its nodes has a remote server")
    return found
