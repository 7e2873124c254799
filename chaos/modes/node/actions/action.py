"""What a mode does for a fault: an async block that undoes the fault when it is left.

Rules of an action
1. The undo is registered before the fault is applied (``ExitStack.callback``, ``try/finally``).
2. Undoing names nodes, never ``Node`` objects: a node that has restarted meanwhile is restored too.
3. ``effects.add()`` is called each time that the fault has taken effect on something.
4. Where there is nothing to act on it raises ``Missed``, before or inside the block.
5. An instant fault has done everything when its block is entered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager

from chaos.faults.fault import Fault
from chaos.modes.effects import Effects
from chaos.modes.node.cluster import SimCluster
from chaos.scenario.schedule import PlannedFault

Action = Callable[[SimCluster, PlannedFault, Effects], AbstractAsyncContextManager[None]]
Actions = Mapping[type[Fault], Action]

__all__ = ["Action", "Actions"]
