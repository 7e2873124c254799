"""Metadata faults and forgeries in core mode: the lies of ``chaos/claims.py``, on the heap."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from chaos.adversary import Ear, rolled_back, tell_anew
from chaos.claims import StandStill, TooLittle, TooMuch
from chaos.engine import Claims, prefix_cache_of
from chaos.faults import metadata, security
from chaos.faults.fault import Fault
from chaos.modes.core.cluster import CoreCluster
from chaos.modes.core.host import CoreHost
from chaos.modes.core.peer import CorePeer
from chaos.modes.effects import Effects
from chaos.modes.lying import EMPTY_EVERY_S, churn, coming_blocks, rng_of
from chaos.scenario.schedule import PlannedFault

CoreAction = Callable[[CoreCluster, PlannedFault, Effects], AbstractContextManager[None]]
MakeClaims = Callable[[CoreHost, CorePeer], Claims]
Speak = Callable[[CoreHost, CorePeer, Ear], None]


@contextmanager
def _each_boot(
    cluster: CoreCluster,
    planned: PlannedFault,
    put: Callable[[CoreHost, CorePeer], None],
    take: Callable[[CorePeer], None],
) -> Iterator[None]:
    """Does something to the peers of some nodes, now and at each later boot, and undoes it."""
    with ExitStack() as undo:
        for name in planned.nodes:
            host = cluster.hosts[name]

            def over(host: CoreHost = host) -> None:
                host.on_boot.remove(put)
                if host.peer is not None:
                    take(host.peer)

            undo.callback(over)
            host.on_boot.append(put)
            if host.peer is not None:
                put(host, host.peer)
        yield


@contextmanager
def _claiming(cluster: CoreCluster, planned: PlannedFault, make: MakeClaims) -> Iterator[None]:
    """Puts a filter on what engines say; the truth is told anew in the end."""

    def put(host: CoreHost, peer: CorePeer) -> None:
        peer.engine.claims[planned.id] = make(host, peer)

    def take(peer: CorePeer) -> None:
        if peer.engine.claims.pop(planned.id, None) is not None:
            peer.engine.tell_anew()

    with _each_boot(cluster, planned, put, take):
        yield


def _stale_digest(
    cluster: CoreCluster, planned: PlannedFault, effects: Effects
) -> AbstractContextManager[None]:
    return _claiming(cluster, planned, lambda _host, _peer: StandStill(effects.add))


def _under_claim(
    cluster: CoreCluster, planned: PlannedFault, effects: Effects
) -> AbstractContextManager[None]:
    return _claiming(cluster, planned, lambda _host, _peer: TooLittle(effects.add))


@contextmanager
def _over_claim(cluster: CoreCluster, planned: PlannedFault, effects: Effects) -> Iterator[None]:
    def make(_: CoreHost, peer: CorePeer) -> Claims:
        return TooMuch(lambda: coming_blocks(cluster, peer.tenants, peer.engine), effects.add)

    def empty_all() -> None:
        for name in planned.nodes:
            peer = cluster.hosts[name].peer
            cache = None if peer is None else prefix_cache_of(peer.engine.core)
            if cache is not None:
                cache.evict_all()

    with _claiming(cluster, planned, make), _repeated(cluster, EMPTY_EVERY_S, empty_all):
        yield


def _churn_storm(
    cluster: CoreCluster, planned: PlannedFault, effects: Effects
) -> AbstractContextManager[None]:
    fault = planned.fault
    assert isinstance(fault, metadata.ChurnStorm)

    def make(host: CoreHost, _: CorePeer) -> Claims:
        return churn(cluster, planned, host, fault.blocks_per_s, effects)

    return _claiming(cluster, planned, make)


@contextmanager
def _replay(cluster: CoreCluster, planned: PlannedFault, effects: Effects) -> Iterator[None]:
    fault = planned.fault
    assert isinstance(fault, metadata.Replay)
    rngs = {name: rng_of(cluster, planned, name) for name in planned.nodes}

    def speak(host: CoreHost, peer: CorePeer, ear: Ear) -> None:
        for data in ear.repeats(rngs[host.name]):
            effects.add(_tell(peer, data))

    with _listening(cluster, planned, fault.every_ms / 1000, speak):
        yield


@contextmanager
def _sequence_rollback(
    cluster: CoreCluster, planned: PlannedFault, effects: Effects
) -> Iterator[None]:
    fault = planned.fault
    assert isinstance(fault, metadata.SequenceRollback)
    rngs = {name: rng_of(cluster, planned, name) for name in planned.nodes}

    def speak(host: CoreHost, peer: CorePeer, _: Ear) -> None:
        unix_s = host.clock.unix_s()
        news = rolled_back(_as_node(peer), int(fault.back), unix_s, rngs[host.name])
        effects.add(_tell(peer, news))

    try:
        with _listening(cluster, planned, fault.every_ms / 1000, speak):
            yield
    finally:
        # Who believed one of two things of one number learns the truth by a newer one.
        for name in planned.nodes:
            peer = cluster.hosts[name].peer
            if peer is not None:
                tell_anew(_as_node(peer))


@contextmanager
def _forged_signature(
    cluster: CoreCluster, planned: PlannedFault, effects: Effects
) -> Iterator[None]:
    fault = planned.fault
    assert isinstance(fault, security.ForgedSignature)
    rngs = {name: rng_of(cluster, planned, name) for name in planned.nodes}

    def speak(host: CoreHost, peer: CorePeer, ear: Ear) -> None:
        for data in ear.forgeries(rngs[host.name]):
            effects.add(_tell(peer, data))

    with _listening(cluster, planned, fault.every_ms / 1000, speak):
        yield


@contextmanager
def _listening(
    cluster: CoreCluster, planned: PlannedFault, every_s: float, speak: Speak
) -> Iterator[None]:
    """Listens at some nodes, and lets each speak now and then while its process runs."""
    ears = {name: Ear() for name in planned.nodes}

    def put(host: CoreHost, peer: CorePeer) -> None:
        ears[host.name].take(_as_node(peer))
        ears[host.name].listen_at(_as_node(peer))

    def go_on() -> None:
        for name, ear in ears.items():
            host = cluster.hosts[name]
            if host.peer is not None and not host.frozen:
                speak(host, host.peer, ear)

    try:
        with (
            _each_boot(cluster, planned, put, lambda _: None),
            _repeated(cluster, every_s, go_on),
        ):
            yield
    finally:
        for ear in ears.values():
            ear.on = False
            ear.heard.clear()


@contextmanager
def _repeated(cluster: CoreCluster, every_s: float, call: Callable[[], None]) -> Iterator[None]:
    """Calls again and again for as long as the block is entered."""
    over = False

    def again() -> None:
        if not over:
            call()
            cluster.heap.after(every_s, again)

    cluster.heap.after(every_s, again)
    try:
        yield
    finally:
        over = True


def _tell(peer: CorePeer, data: bytes) -> int:
    """Sends a gossip message to everybody that is up; to how many that is."""
    for peer_id in peer.up():
        peer.send(peer_id, data)
    return len(peer.up())


def _as_node(peer: CorePeer) -> Any:  # a Node to ``chaos.adversary``, which asks for no more
    return peer


LIES: Mapping[type[Fault], CoreAction] = {
    metadata.StaleDigest: _stale_digest,
    metadata.Replay: _replay,
    metadata.SequenceRollback: _sequence_rollback,
    metadata.OverClaim: _over_claim,
    metadata.UnderClaim: _under_claim,
    metadata.ChurnStorm: _churn_storm,
    security.ForgedSignature: _forged_signature,
}
