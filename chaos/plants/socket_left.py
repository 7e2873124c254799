"""CLEAN: a socket of a peer is still there when the run is over."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

from chaos.invariants.invariant import Id
from chaos.plants.plant import Plant


class SocketLeft(Plant):
    """The harness."""

    name = "socket-left"
    invariant = Id.CLEAN
    live = True

    def leave_behind(self, sockets: Sequence[Path]) -> None:
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(sockets[0]))
