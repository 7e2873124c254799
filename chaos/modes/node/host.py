"""A simulated host: what stays of it, and what each boot of its peer brings."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import trio

from chaos.clock import VirtualClock
from chaos.engine import FaultyEngine
from chaos.issuing import EnrolmentFace, MemoryFiles
from chaos.modes.node.face import Face
from chaos.modes.toy import OtherModel
from chaos.storage import Session, SimStorage
from inference.toy import ToyConfig
from overlay.identity import Identity
from overlay.node import Node


@dataclass(eq=False)
class Boot:
    """One run of a host's peer."""

    node: Node
    engine: FaultyEngine
    face: Face
    session: Session
    enrolment: EnrolmentFace
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    task: trio.lowlevel.Task | None = None
    gone: trio.Event = field(default_factory=trio.Event)
    killed: bool = False


@dataclass(eq=False)
class SimHost:
    """One host. ``engine`` and ``node`` are those of the present boot, None while it is down.

    ``tenants`` are names of those that it is a member of; ``down`` says why it does not run, and
    ``down_s`` since when;
    ``files`` are the issuer's, on its host where certificates are renewed;
    ``other`` is what its engine serves in place of its own model from the next boot on.
    ``left`` are those of its tenants on whose roster it is not at present.
    ``holds`` are keys of what keeps it down: it may start when there are none. ``stopped`` are
    keys of what keeps its process stopped. ``starting`` is set when a start under way has come to
    an end, one way or the other.
    """

    name: str
    address: str
    tenants: tuple[str, ...]
    toy: ToyConfig
    identity: Identity
    epochs: tuple[bytes, ...]
    storage: SimStorage
    clock: VirtualClock
    other: OtherModel | None = None
    files: MemoryFiles | None = None
    boot: Boot | None = None
    starting: trio.Event | None = None
    starts: int = 0
    identities: int = 1
    down: str | None = "not started"
    down_s: float = -math.inf
    left: set[str] = field(default_factory=set)
    holds: set[str] = field(default_factory=set)
    stopped: set[str] = field(default_factory=set)

    @property
    def node(self) -> Node | None:
        return None if self.boot is None else self.boot.node

    @property
    def engine(self) -> FaultyEngine | None:
        return None if self.boot is None else self.boot.engine

    @property
    def face(self) -> Face | None:
        return None if self.boot is None else self.boot.face

    @property
    def running(self) -> Node:
        """Its node. Raises ``RuntimeError`` where it is down."""
        if self.boot is None:
            raise RuntimeError(f"{self.name} is not running: {self.down}")
        return self.boot.node

    def start_ended(self, start: trio.Event) -> None:
        """Tells those who wait for a start, and lets others start it again. Twice: no effect."""
        start.set()
        if self.starting is start:
            self.starting = None
