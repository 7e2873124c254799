"""Planted bugs: doubles of parts of a peer, each with one defect that one invariant forbids.

They prove that the checkers can fail. A runner gives each boot's parts to the plant that is
switched on, and takes what it gives back; the product itself is never changed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar

from chaos.invariants.invariant import Id
from inference.core import EngineCore
from overlay.node import Node
from overlay.ports import Ports

T = TypeVar("T")


class Host(Protocol):
    """Where a part is used."""

    @property
    def name(self) -> str: ...


class Plant:
    """One defect. A part that it does not concern passes as it is.

    ``in_engine`` says that the defect is in the engine's core alone, ``live`` that it is in the
    harness's own processes, which simulation has none of.
    """

    name: ClassVar[str]
    invariant: ClassVar[Id]
    in_engine: ClassVar[bool] = False
    live: ClassVar[bool] = False

    @property
    def about(self) -> str:
        """The invariant and the defect, as the plant's module says it."""
        return sys.modules[type(self).__module__].__doc__ or ""

    def engine(self, core: EngineCore) -> EngineCore:
        """The engine core of one boot."""
        return core

    def ports(self, ports: Ports, host: Host) -> Ports:
        """What one boot takes from outside."""
        del host
        return ports

    def node(self, node: Node) -> Node:
        """The node of one boot, before it runs."""
        return node

    def leave_behind(self, sockets: Sequence[Path]) -> None:
        """Called when a live run is over: where its peers had their sockets."""
        del sockets


def become(part: T, double: type[T]) -> T:
    """Makes an object one of a double's class, with all that it holds; gives it back.

    The double adds no attributes, so that the object has all that the double needs.
    """
    part.__class__ = double
    return part
