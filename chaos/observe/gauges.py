"""Everything that a node bounds, or lets grow with what goes on and must let go again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import msgspec

from chaos.engine import FaultyEngine
from overlay import decisions, knowledge, peers, router, views
from overlay.gossip import digest, epochs, graves, index, messages, relay, replica
from overlay.node import Node
from overlay.routing import booking, expected_output, placements
from overlay.transport import mux, outbox
from overlay.transport.connection import Connection
from overlay.transport.limits import MESSAGE_BYTES_MAX, Limits


class Gauge(msgspec.Struct, frozen=True, gc=False):
    """One value. ``cap`` None: none is stated. ``returns``: it must come back after healing."""

    name: str
    value: float
    cap: float | None = None
    returns: bool = False


def gauges(node: Node, engine: FaultyEngine, channels: int) -> Iterator[Gauge]:
    """All of one node; ``channels`` are those that it has accepted and that are open."""
    yield Gauge("accepted_channels", channels, returns=True)
    yield from _requests(node)
    yield from router_gauges(node)
    yield from gossip_gauges(node)
    yield from _knowledge(node)
    yield from _peers(node)
    yield from _connections(node)
    yield from _engine(engine)


def _requests(node: Node) -> Iterator[Gauge]:
    yield Gauge("open_requests", node.ingress.open_requests, returns=True)
    yield Gauge("forwards_served", node._serving, returns=True)
    yield Gauge("decisions", len(node.decisions._requests), decisions.KEPT)


def router_gauges(node: Node) -> Iterator[Gauge]:
    """What its router keeps."""
    own = node.router
    accounts = own.bookings._accounts.values()
    yield Gauge("bookings", sum(account.in_flight for account in accounts), returns=True)
    ended = [len(account.ended) for account in accounts]
    yield Gauge("ended_bookings", _most(ended), booking.ENDED_KEPT_MAX)
    yield Gauge("booking_accounts", len(own.bookings._accounts), _known_max())
    yield Gauge("memories", len(own._memories), router.MEMORIES_MAX)
    remembered = [len(memory._placements._at) for memory in own._memories.values()]
    yield Gauge("remembered_prefixes", _most(remembered), placements.KEPT_MAX)
    yield Gauge("view_kinds", len(own._views._kept), views.KINDS_MAX)
    kept = [len(of_kind) for of_kind in own._views._kept.values()]
    yield Gauge("views_kept", _most(kept), _known_max())
    expected = len(own._expected._mean)
    yield Gauge("expected_outputs", expected, expected_output.KEPT_MAX)
    yield Gauge("measured_peers", len(own.measured._peers), _known_max())
    yield Gauge("suspects", len(own.probation._past), _known_max())
    yield Gauge("generations_noted", len(own._generations), _known_max())


def gossip_gauges(node: Node) -> Iterator[Gauge]:
    """What its gossip keeps."""
    gossip = node.knowledge.gossip
    origins = [origin for _, origin in gossip.origins]
    yield Gauge("origins", len(origins), messages.ORIGINS_MAX)
    yield Gauge("graves", len(gossip.origins.graves), graves.GRAVES_MAX)
    sizes = [origin.size_bytes for origin in origins]
    yield Gauge("carried_bytes", sum(sizes), relay.CARRIED_BYTES_MAX)
    yield Gauge("origin_bytes", _most(sizes), relay.ORIGIN_BYTES_MAX)
    streams = [len(origin.streams) for origin in origins]
    yield Gauge("origin_streams", _most(streams), messages.STREAMS_MAX)
    tails = [len(stream.tail) for origin in origins for stream in origin.streams.values()]
    yield Gauge("stream_tail_frames", _most(tails), relay.TAIL_FRAMES_MAX)
    yield Gauge("index_tags", len(gossip.reader.index), index.ENTRIES_MAX)
    tags = [len(read.replica.tags) for read in gossip.reader.reads.values()]
    yield Gauge("replica_tags", _most(tags), replica.TAGS_MAX)
    digests = [len(tree.digest) for tree in gossip.forest._trees.values()]
    yield Gauge("digest_blocks", _most(digests), digest.BUDGET)
    yield Gauge("epochs_carried", len(gossip.epochs.known()), epochs.EPOCHS_MAX)


def _knowledge(node: Node) -> Iterator[Gauge]:
    own = node.knowledge
    waiting = [out.statistics().current_buffer_used for out in own._outboxes.values()]
    yield Gauge("gossip_outbox", _most(waiting), knowledge.OUTBOX_MESSAGES)
    yield Gauge("gossip_streams", len(own._heard), returns=True)
    yield Gauge("models_told", len(own._models), messages.ORIGINS_MAX)
    yield Gauge("unstored_rows", sum(map(len, own._unstored.values())), returns=True)


def _peers(node: Node) -> Iterator[Gauge]:
    own = node.peers
    yield Gauge("peers_up", len(own._up), returns=True)
    yield Gauge("peers_known", len(own._known), peers.KNOWN_MAX)
    yield Gauge("dialling", len(own._dialling), peers.KNOWN_MAX)


def _connections(node: Node) -> Iterator[Gauge]:
    found = [up.connection for up in node.peers._up.values()]
    limits: Limits = node.config.limits
    ours = limits.windows
    theirs = [each.remote.hello.windows.streams for each in found]
    yield Gauge(
        "connection_streams",
        _of(found, lambda mux_: mux_.streams_open),
        ours.streams + _most(theirs),
    )
    unsent_max = outbox.UNSENT_BYTES_MAX + MESSAGE_BYTES_MAX
    yield Gauge("unsent_bytes", _of(found, lambda mux_: mux_._outbox._unsent_bytes), unsent_max)
    control = _of(found, lambda mux_: len(mux_._outbox.control))
    yield Gauge("control_frames", control, mux.CONTROL_FRAMES_MAX)
    unread = _of(found, lambda mux_: mux_._outstanding - mux_._unreturned)
    yield Gauge("unread_bytes", unread, ours.connection_bytes)
    yield Gauge("body_bytes", _of(found, lambda mux_: mux_._bodies_bytes), limits.bodies_bytes)


def _engine(engine: FaultyEngine) -> Iterator[Gauge]:
    load, slots = engine.load(), engine.capabilities().slots
    yield Gauge("engine_running", load.running, slots)
    yield Gauge("engine_queued", load.queued, returns=True)
    yield Gauge("engine_blocks", load.used_blocks, load.total_blocks)
    yield Gauge("engine_streams", len(engine._streams), returns=True)


def _of(connections: Iterable[Connection], read: Callable[[mux.Mux], float]) -> float:
    """The greatest of all connections."""
    return _most([read(connection._mux) for connection in connections])


def _most(values: Iterable[float]) -> float:
    return max(values, default=0)


def _known_max() -> float:
    """Peers that are known by gossip, and as many that are known by being connected."""
    return messages.ORIGINS_MAX + peers.KNOWN_MAX


def is_over(gauge: Gauge) -> bool:
    """Whether a value is beyond its cap."""
    return gauge.cap is not None and not math.isinf(gauge.cap) and gauge.value > gauge.cap
