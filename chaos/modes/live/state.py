"""What a live node tells of itself: its digests, what it knows of others', and what is true."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import trio

from chaos.modes.live.orders import Published, State
from chaos.observe.agreement import published_blocks, published_tags, replica_tags
from chaos.observe.gauges import gossip_gauges, router_gauges
from chaos.observe.truth import CacheTruth, TruthCore
from inference.core import EngineCore
from inference.request import Namespace
from overlay.node import Node


class StateTap:
    """Listens to an engine's core and looks at a node. ``core`` is to be used in place of it."""

    def __init__(self, core: EngineCore) -> None:
        self._truth = CacheTruth(trio.current_time)
        self._evictions = 0
        self.core = TruthCore(core, self._truth, self._on_evicted)

    def _on_evicted(self) -> None:
        self._evictions += 1

    def of(self, node: Node) -> State:
        """The node as it is now."""
        gossip = node.knowledge.gossip
        mine: dict[str, Published] = {}
        truth: dict[str, tuple[int, int]] = {}
        for tenant_id in sorted(gossip.epochs.mine):
            stream = gossip.publisher._streams.get(tenant_id)
            published = published_blocks(gossip, tenant_id)
            held = self._truth.held(Namespace(tenant_id))
            ends = self._truth.ends(Namespace(tenant_id))
            truncated = gossip.forest.tree(Namespace(tenant_id)).digest.truncated
            mine[tenant_id] = _published(
                0 if stream is None else stream.seq, published_tags(gossip, tenant_id)
            )
            truth[tenant_id] = (
                len(published - held),
                0 if truncated else len(ends - published),
            )
        known = {
            f"{origin}|{tenant_id}": _published(
                read.replica.seq, replica_tags(gossip, origin, tenant_id)
            )
            for (origin, tenant_id), read in sorted(gossip.reader.reads.items())
        }
        gauges = [*router_gauges(node), *gossip_gauges(node)]
        return State(
            generation=node.generation,
            mine=mine,
            known=known,
            truth=truth,
            gauges={gauge.name: (gauge.value, gauge.cap) for gauge in gauges},
            evictions=self._evictions,
        )


def _published(seq: int, tags: Iterable[int]) -> Published:
    state, count = hashlib.blake2b(digest_size=12), 0
    for tag in sorted(tags):
        state.update(tag.to_bytes(8, "big"))
        count += 1
    return Published(seq, count, state.hexdigest())
