"""The lines of a run's phases, in a terminal and in a pipe."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from chaos.commands.phases import Phases
from chaos.history import Event, What

EVENTS = (
    Event(0.0, What.PHASE, "", {"name": "warm_up"}),
    Event(0.1, What.NODE_UP, "n1", {"generation": 1, "why": "first start"}),
    Event(5.0, What.PHASE, "", {"name": "storm"}),
    Event(5.1, What.INVOKE, "r1", {}),
    Event(5.2, What.INVOKE, "r2", {}),
    Event(5.3, What.FAULT_BEGIN, "f", {"kind": "kill9", "nodes": ["n1"]}),
    Event(6.0, What.OK, "r1", {}),
    Event(9.0, What.PHASE, "", {"name": "healed"}),
    Event(9.1, What.FAULT_END, "f", {"effects": 1}),
    Event(9.5, What.FAIL, "r2", {}),
    Event(9.6, What.CONVERGED, "", {"after_s": 0.6}),
    Event(12.0, What.PHASE, "", {"name": "settled"}),
    Event(13.5, What.PHASE, "", {"name": "stopped"}),
)
LINES = [
    "warm-up     5.0 s; nodes: 1 up, 0 down",
    "storm       4.0 s; requests: 1 ok, 1 open; faults: 1 begun, 1 active",
    "healed      3.0 s; requests: 1 failed, 0 open; converged after 0.6 s",
    "stopping    1.5 s",
]


def test_each_phase_leaves_one_line_with_what_happened_in_it() -> None:
    out = StringIO()
    phases = Phases(Console(file=out, width=120, highlight=False))
    with phases:
        for event in EVENTS:
            phases(event)
    assert out.getvalue().splitlines() == LINES


def test_a_terminal_keeps_the_same_lines() -> None:
    out = StringIO()
    phases = Phases(Console(file=out, width=120, force_terminal=True, highlight=False))
    with phases:
        for event in EVENTS:
            phases(event)
    text = out.getvalue()
    assert all(line in text for line in LINES)
