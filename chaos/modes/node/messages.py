"""What happens to gossip messages on their way: loss in bursts, doubling, overtaking.

The network below carries streams as TCP does, in which nothing is lost. These faults act on whole
messages instead, where the receiving peer hands them to its gossip: a rule under a key for each
directed link. The filter is put on every boot once, so that ending a rule needs no node.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

import trio

from chaos.bursts import Bursts
from overlay.errors import ProtocolError
from overlay.gossip.effects import Effect
from overlay.node import Node
from security.peer_id import PeerId

if TYPE_CHECKING:
    from chaos.modes.node.cluster import SimCluster, SimHost

Links = frozenset[tuple[str, str]]
Deliver = Callable[[PeerId, bytes, float, float], list[Effect]]


@dataclass(slots=True, kw_only=True)
class Rule:
    """One fault's way with messages. ``on_effect`` is called for each that it touches.

    ``lose`` and ``burst`` are as of ``chaos.bursts.Bursts``, for each link by itself.
    """

    links: Links
    rng: Callable[[str, str], Random]
    on_effect: Callable[[], None]
    lose: float = 0.0
    burst: float = 1.0
    double: float = 0.0
    hold_back: float = 0.0
    gap_s: float = 0.0
    _bursts: dict[tuple[str, str], Bursts] = field(default_factory=dict)
    _streams: dict[tuple[str, str], Random] = field(default_factory=dict)

    def stream(self, link: tuple[str, str]) -> Random:
        found = self._streams.get(link)
        if found is None:
            found = self._streams[link] = self.rng(*link)
        return found

    def loses(self, link: tuple[str, str]) -> bool:
        """Whether the next message of a link is lost; moves the link's state."""
        if self.lose <= 0.0:
            return False
        found = self._bursts.get(link)
        if found is None:
            found = self._bursts[link] = Bursts(self.lose, self.burst, self.stream(link))
        return found.loses()


@dataclass(eq=False)
class MessageFaults:
    """The rules of one cluster, by key."""

    rules: dict[str, Rule] = field(default_factory=dict)

    def install(self, cluster: SimCluster, host: SimHost, node: Node) -> None:
        """Lets the rules decide about what a new node is told: earlier taps see what is left."""
        gossip = node.knowledge.gossip
        deliver: Deliver = gossip.on_message

        async def deliver_late(sender: PeerId, data: bytes, gap_s: float) -> None:
            await trio.sleep(gap_s)
            if host.node is not node or node.peers.connection(sender) is None:
                return
            now_s, now_unix_s = host.clock.now_s(), host.clock.unix_s()
            try:
                node.knowledge._do(deliver(sender, data, now_s, now_unix_s))
            except ProtocolError as error:
                cluster.broken.append(f"{host.name}: a late message was refused: {error}")

        def hear(sender: PeerId, data: bytes, now_s: float, now_unix_s: float) -> list[Effect]:
            if not self.rules:
                return deliver(sender, data, now_s, now_unix_s)
            link = (cluster.name_of(sender), host.name)
            twice = False
            for rule in self.rules.values():
                if link not in rule.links:
                    continue
                if rule.loses(link):
                    rule.on_effect()
                    return []
                drawn = rule.stream(link).random()
                if drawn < rule.hold_back:
                    rule.on_effect()
                    cluster.nursery.start_soon(deliver_late, sender, data, rule.gap_s)
                    return []
                if drawn < rule.double:
                    rule.on_effect()
                    twice = True
            effects = deliver(sender, data, now_s, now_unix_s)
            if twice:
                effects = [*effects, *deliver(sender, data, now_s, now_unix_s)]
            return effects

        gossip.on_message = hear  # type: ignore[method-assign]  # the tap
