"""Several ways of finding peers as one."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from overlay.address import Address
from overlay.config import PeerConfig
from overlay.discovery.bootstrap import BootstrapDiscovery
from overlay.discovery.interfaces import Interface
from overlay.discovery.mdns import MdnsDiscovery
from overlay.ports import Discovery, Entropy, PeerHint
from security.peer_id import PeerId


def make_discovery(
    config: PeerConfig, *, overlay_id: str, interfaces: Sequence[Interface], entropy: Entropy
) -> Discovery:
    """The ways of finding peers that the settings ask for, together."""
    sources: list[Discovery] = []
    if config.mdns:
        sources.append(MdnsDiscovery(overlay_id=overlay_id, interfaces=interfaces, entropy=entropy))
    if config.bootstrap:
        sources.append(BootstrapDiscovery(config.bootstrap, entropy))
    return CombinedDiscovery(sources)


class CombinedDiscovery:
    """``overlay.ports.Discovery`` that runs others side by side; with none it finds nobody."""

    def __init__(self, sources: Sequence[Discovery]) -> None:
        self._sources = tuple(sources)

    async def run(
        self,
        peer_id: PeerId,
        addresses: Sequence[Address],
        hints: trio.MemorySendChannel[PeerHint],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        async with hints, trio.open_nursery() as nursery:
            for source in self._sources:
                await nursery.start(source.run, peer_id, addresses, hints.clone())
            task_status.started()
            await trio.sleep_forever()
