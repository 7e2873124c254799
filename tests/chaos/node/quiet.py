"""An observer that sees only who is up: for tests of the runner and its actions alone."""

from __future__ import annotations

from chaos.modes.node.cluster import SimCluster, SimHost
from overlay.node import Node
from overlay.ports import Ports


class Quiet:
    """Writes nothing; the cluster has converged when the core's nodes see each other."""

    def __init__(self, cluster: SimCluster) -> None:
        self._cluster = cluster

    def wrap_ports(self, host: SimHost, ports: Ports) -> Ports:
        del host
        return ports

    def on_boot(self, host: SimHost, node: Node) -> None:
        del host, node

    async def watch(self) -> None:
        return

    def converged(self) -> bool:
        core = [host for host in self._cluster.core() if host.node is not None]
        return all(
            host.running.peers.connection(other.identity.peer_id) is not None
            for host in core
            for other in core
            if host is not other
        )

    def settled(self) -> None:
        return
