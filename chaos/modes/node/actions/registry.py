"""Every action of the mode, by the class of its fault."""

from __future__ import annotations

from chaos.faults.fault import Fault
from chaos.modes.node.actions import (
    client,
    clock,
    copies,
    disk,
    link,
    metadata,
    process,
    roots,
    roster,
    security,
    tokens,
    topology,
    worker,
)
from chaos.modes.node.actions.action import Action

ACTIONS: dict[type[Fault], Action] = {
    **link.ACTIONS,
    **topology.ACTIONS,
    **clock.ACTIONS,
    **process.ACTIONS,
    **disk.ACTIONS,
    **metadata.ACTIONS,
    **security.ACTIONS,
    **roster.ACTIONS,
    **roots.ACTIONS,
    **copies.ACTIONS,
    **tokens.ACTIONS,
    **worker.ACTIONS,
    **client.ACTIONS,
}
