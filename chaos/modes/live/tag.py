"""What marks everything of one live run, so that nothing else is ever touched or left behind.

A run has a folder with its tag in the name, processes that carry the tag in their environment, and
a block of loopback addresses or network namespaces of its own (``namespaces.py``). Nothing outside
these is a target.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path

from chaos.errors import ChaosError

PREFIX = "rhizome-chaos-"
VARIABLE = "RHIZOME_CHAOS_RUN"
"""Environment variable of a run's processes: its tag."""

PROC = Path("/proc")
PORT = 7401
"""Where nodes and relays listen."""

BLOCKS_TRIED = 64
NODES_MAX = 64
STRANGERS = 32
RELAY_PART = 128
"""Last byte of a node's address plus this is its relay's."""


@dataclass(frozen=True, slots=True)
class RunTag:
    """One run.

    ``text`` begins with the process id of its harness and when that was started: ids come again.
    """

    text: str

    @property
    def folder(self) -> Path:
        """Where everything of the run is kept."""
        return Path(tempfile.gettempdir()) / f"{PREFIX}{self.text}"


def new_tag() -> RunTag:
    """A tag that no other run has."""
    return RunTag(f"{os.getpid()}-{started_ticks(os.getpid())}-{secrets.token_hex(4)}")


@dataclass(frozen=True, slots=True)
class Block:
    """Loopback addresses of one run; ``prefix`` is their first three bytes."""

    prefix: str

    def address(self, number: int) -> str:
        """Where node ``number`` (from 1) listens, and where it dials from."""
        return f"{self.prefix}.{number}"

    def relay(self, number: int) -> str:
        """Where the relay in front of a node listens: what the node advertises."""
        return f"{self.prefix}.{number + RELAY_PART}"

    def stranger(self, number: int) -> str:
        """Where somebody dials from who is no node; there are a few of these addresses."""
        return f"{self.prefix}.{RELAY_PART + NODES_MAX + 1 + number % STRANGERS}"


def free_block() -> Block:
    """A block of loopback addresses that nobody listens in.

    Raises:
        ChaosError: Where none is found.
    """
    for _ in range(BLOCKS_TRIED):
        block = Block(f"127.{64 + secrets.randbelow(128)}.{secrets.randbelow(256)}")
        if _is_free(block.address(1)):
            return block
    raise ChaosError("no free block of loopback addresses was found")


def _is_free(address: str) -> bool:
    # Another run's first node would listen there.
    with socket.socket() as probe:
        try:
            probe.bind((address, PORT))
        except OSError:
            return False
    return True


def started_ticks(pid: int) -> int:
    """When a process was started, in clock ticks since boot; 0 where there is none, or it is dead.

    Dead is also one that only waits for its parent to take note of its end.
    """
    try:
        _, _, rest = (PROC / str(pid) / "stat").read_text().rpartition(")")
    except OSError:
        return 0
    state, *fields = rest.split()
    return 0 if state in "ZX" else int(fields[18])


def check_target(address: str, own: ipaddress.IPv4Network | None = None) -> None:
    """Raises ``ChaosError`` for an address that is not of this host's loopback.

    ``own`` is the network of a run's own namespaces, where it has them: then no other is a target.
    """
    target = ipaddress.ip_address(address)
    if own is None and not target.is_loopback:
        raise ChaosError(f"{address} is no loopback address: the harness touches no other")
    if own is not None and target not in own:
        raise ChaosError(f"{address} is not in {own}, of this run: the harness touches no other")
