"""Static addresses as hints, for networks where multicast does not pass.

Given again for ever, at growing intervals, because the peer behind an address may start later or
come back, and a hint may have been dropped.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from overlay.address import Address
from overlay.ports import Entropy, PeerHint
from security.peer_id import PeerId

FIRST_INTERVAL_S = 1.0
INTERVAL_S_MAX = 10.0
"""A healed network is seen within this time, as over mDNS."""

JITTER = 0.2


class BootstrapDiscovery:
    """``overlay.ports.Discovery`` of a fixed list of addresses; announces nothing."""

    def __init__(self, addresses: Sequence[Address], entropy: Entropy) -> None:
        self._addresses = tuple(dict.fromkeys(addresses))
        self._entropy = entropy
        self.dropped = 0

    async def run(
        self,
        peer_id: PeerId,
        addresses: Sequence[Address],
        hints: trio.MemorySendChannel[PeerHint],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        del peer_id
        others = [address for address in self._addresses if address not in set(addresses)]
        async with hints:
            task_status.started()
            interval_s = FIRST_INTERVAL_S
            while True:
                for address in others:
                    self._give(hints, PeerHint(peer_id=None, addresses=(address,)))
                spread = self._entropy.rng.uniform(1 - JITTER, 1 + JITTER)
                await trio.sleep(interval_s * spread)
                interval_s = min(2 * interval_s, INTERVAL_S_MAX / (1 + JITTER))

    def _give(self, hints: trio.MemorySendChannel[PeerHint], hint: PeerHint) -> None:
        try:
            hints.send_nowait(hint)
        except (trio.WouldBlock, trio.BrokenResourceError):
            self.dropped += 1
