"""TCP connections as a switch sees them pass, so that it can break one as a firewall does.

To break a connection, a forged reset goes to each end at once. An end may expect another number
than the last one that it told; whatever it says afterwards is not carried, and gets a reset that
fits. A connection that is being closed is left to close.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from chaos.modes.live.frames import ACK, FIN, RST, SYN, End, reset_to, segment_of

FLOWS_MAX = 4096
"""Those not heard of for longest are forgotten, and can no longer be broken."""


@dataclass(eq=False, slots=True)
class _Flow:
    """One connection; ``last`` is the newest frame of each end, with the node that it is at."""

    nodes: frozenset[str]
    last: dict[End, tuple[str, bytes]] = field(default_factory=dict)
    broken: bool = False


class Flows:
    """The connections of one switch."""

    def __init__(self) -> None:
        self._flows: OrderedDict[frozenset[End], _Flow] = OrderedDict()

    def see(self, frame: bytes, source: str, target: str) -> bytes | None:
        """Takes note of a frame between two nodes.

        Returns:
            A reset for the source, where the connection was broken and the frame must not pass.
        """
        segment = segment_of(frame)
        if segment is None:
            return None
        ends = frozenset((segment.source, segment.target))
        flow = self._flows.get(ends)
        if segment.flags & (SYN | ACK) == SYN and (flow is None or flow.broken):
            flow = self._flows[ends] = _Flow(frozenset((source, target)))
            if len(self._flows) > FLOWS_MAX:
                self._flows.popitem(last=False)
        if flow is None:
            return None
        self._flows.move_to_end(ends)
        if flow.broken:
            return None if segment.flags & RST else reset_to(frame, segment)
        if segment.flags & (FIN | RST):
            del self._flows[ends]
        else:
            flow.last[segment.source] = (source, frame)
        return None

    def reset(self, a: str, b: str) -> list[list[tuple[str, bytes]]]:
        """Breaks what two nodes have open: of each connection the frames to send, and to whom."""
        broken = []
        for flow in self._flows.values():
            if flow.nodes == {a, b} and not flow.broken:
                flow.broken = True
                forged = []
                for node, frame in flow.last.values():
                    segment = segment_of(frame)
                    assert segment is not None
                    forged.append((node, reset_to(frame, segment)))
                broken.append(forged)
        return broken
