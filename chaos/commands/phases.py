"""The phases of a run in a terminal: one line each, counting while the run goes on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from chaos.history import Event, What
from chaos.outcome import ENDS
from chaos.stopwatch import Stopwatch

REFRESH_S = 0.1
LABELS = {
    "warm_up": "warm-up",
    "storm": "storm",
    "healed": "healed",
    "settled": "stopping",
}
"""Names of what goes on from a PHASE event until the next one."""


@dataclass(slots=True)
class _Counts:
    """What happened in one phase."""

    began_s: float
    name: str
    ends: Counter[str] = field(default_factory=Counter)
    begun: int = 0
    down: int = 0
    up: int = 0
    converged_s: float | None = None


class Phases:
    """A watcher of a run's events; use it as a context around the run."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._watch = Stopwatch()
        self._shown_s = 0.0
        self._now_s = 0.0
        self._open: set[str] = set()
        self._active: set[str] = set()
        self._phase = _Counts(0.0, "")

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._finish()
        self._live.stop()

    def __call__(self, event: Event) -> None:
        """Counts an event."""
        self._now_s = event.at_s
        self._count(event)
        if event.what is What.PHASE:
            self._finish()
            self._phase = _Counts(event.at_s, str(event.data["name"]))
        if self._console.is_terminal and self._watch.read_s() - self._shown_s > REFRESH_S:
            self._shown_s = self._watch.read_s()
            self._live.update(self._line(), refresh=True)

    def _count(self, event: Event) -> None:
        phase = self._phase
        if event.what is What.INVOKE:
            self._open.add(event.subject)
        elif event.what in ENDS:
            self._open.discard(event.subject)
            phase.ends[ENDS[event.what]] += 1
        elif event.what is What.FAULT_BEGIN:
            self._active.add(event.subject)
            phase.begun += 1
        elif event.what is What.FAULT_END:
            self._active.discard(event.subject)
        elif event.what is What.NODE_UP:
            phase.up += 1
        elif event.what is What.NODE_DOWN:
            phase.down += 1
        elif event.what is What.CONVERGED:
            phase.converged_s = float(event.data["after_s"])

    def _finish(self) -> None:
        """The line of a phase that is over stays."""
        if self._phase.name in LABELS:
            self._live.update(Text(""))
            self._console.print(self._line())
        self._phase = _Counts(self._now_s, "")

    def _line(self) -> Text:
        phase = self._phase
        parts = [f"{self._now_s - phase.began_s:6.1f} s"]
        ends = [f"{count} {word}" for word, count in phase.ends.items()]
        if ends or self._open:
            parts.append(f"requests: {', '.join(ends) or 'none ended'}, {len(self._open)} open")
        if phase.begun or self._active:
            parts.append(f"faults: {phase.begun} begun, {len(self._active)} active")
        if phase.up or phase.down:
            parts.append(f"nodes: {phase.up} up, {phase.down} down")
        if phase.converged_s is not None:
            parts.append(f"converged after {phase.converged_s:.1f} s")
        label = LABELS.get(phase.name, phase.name)
        return Text(f"{label:<9}{'; '.join(parts)}", no_wrap=True, overflow="ellipsis")
