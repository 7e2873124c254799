"""What actions of live mode act on, and what an action is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from chaos.modes.effects import Effects
from chaos.modes.live.clients import LiveClients
from chaos.modes.live.cluster import LiveCluster
from chaos.scenario.schedule import PlannedFault


class Ground:
    """What actions act on."""

    def __init__(self, cluster: LiveCluster, clients: LiveClients) -> None:
        self.cluster = cluster
        self.clients = clients


LiveAction = Callable[[Ground, PlannedFault, Effects], AbstractAsyncContextManager[None]]
