"""The seam to what watches a run (``chaos/observe``)."""

from __future__ import annotations

from typing import Protocol

from chaos.modes.node.cluster import SimHost
from overlay.node import Node
from overlay.ports import Ports


class Observer(Protocol):
    """Watches a cluster and writes facts to its history.

    Made by ``chaos.observe.observer.observer(cluster)`` before the first boot.
    """

    def wrap_ports(self, host: SimHost, ports: Ports) -> Ports:
        """Taps on what a new node takes from outside; the runner adds it to the cluster's."""
        ...

    def on_boot(self, host: SimHost, node: Node) -> None:
        """Taps on a new node, before it runs."""
        ...

    async def watch(self) -> None:
        """Polls until cancelled: GAUGE, AGREEMENT (every second or so) and the like."""
        ...

    def converged(self) -> bool:
        """Whether every replica of a running core node equals what its origin has published.

        And what is published is what is held. The runner asks twice a second after healing, when
        no request is under way, and writes CONVERGED.
        """
        ...

    def settled(self) -> None:
        """Settling is over: writes DIVERGED and CLAIMS, last GAUGEs."""
        ...
