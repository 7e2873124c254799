"""What goes into a router's view of a peer, and what it forgets with the peer's record."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

from chaos.world import world_of
from overlay.gossip.effects import RecordForgotten
from overlay.knowledge import LoadPicture
from overlay.router import Router
from overlay.routing.booking import Bookings
from overlay.routing.candidate import PeerView, Standing
from overlay.routing.measured import FirstToken, Measured
from overlay.routing.memory import Memory
from overlay.routing.policies import policy_named
from overlay.routing.probation import Probation
from overlay.served import advertised
from overlay.views import UNHEARD_AGE_S, Views
from security.peer_id import PeerId
from tests.overlay.peers_world import FAST, everybody_ready, simulate
from tests.overlay.test_served import MODEL

ME, OTHER = PeerId("me"), PeerId("other")
NOW_S = 100.0


def stand_ins(*, taken_s: float, as_of_s: float | None) -> dict[str, Any]:  # the node's parts
    knowledge = SimpleNamespace(
        load=lambda _peer_id: LoadPicture(taken_s=taken_s, running=1),
        digest_as_of=lambda _peer_id: as_of_s,
        models=lambda _peer_id: (advertised(MODEL),),
    )
    peers = SimpleNamespace(up=lambda: (OTHER,), connection=lambda _peer_id: None)
    engine = SimpleNamespace(
        load=lambda: SimpleNamespace(
            running=0, queued=0, queued_tokens=0, prefill_tokens_per_s=0.0, decode_s_per_token=0.0
        ),
        capabilities=lambda: SimpleNamespace(models=(MODEL,), slots=2),
        stalled=lambda: False,
    )
    return {"me": ME, "engine": engine, "knowledge": knowledge, "peers": peers}


def views_at(
    *, taken_s: float = NOW_S, as_of_s: float | None = NOW_S, bookings: Bookings | None = None
) -> dict[PeerId, PeerView]:
    views = Views(
        **stand_ins(taken_s=taken_s, as_of_s=as_of_s),
        bookings=Bookings() if bookings is None else bookings,
        measured=Measured(),
        probation=Probation(),
        zone=None,
        zone_rules=(),
        serves=lambda _: True,
        confirmed=lambda: True,
        allow_variants=False,
    )
    tenant: Any = SimpleNamespace(tenant_id="t", members={ME, OTHER})
    made = views.of(tenant, MODEL.name, Memory(), NOW_S)
    return {view.peer_id: view for view in made}


def test_a_digest_that_lacks_something_ages_though_load_hints_come() -> None:
    old, new = views_at(as_of_s=NOW_S - 40.0)[OTHER], views_at()[OTHER]
    assert (old.age_s, old.digest_age_s, new.digest_age_s) == (0.0, 40.0, 0.0)
    assert old.load_freshness == new.load_freshness == 1.0
    assert old.freshness < new.freshness
    assert old.freshness == Memory().freshness(40.0)


def test_a_load_hint_ages_though_the_digest_is_as_new_as_it() -> None:
    view = views_at(taken_s=NOW_S - 40.0, as_of_s=NOW_S - 40.0)[OTHER]
    assert (view.age_s, view.digest_age_s) == (40.0, 40.0)


def test_a_digest_that_never_came_is_as_old_as_can_be() -> None:
    assert views_at(as_of_s=None)[OTHER].digest_age_s == UNHEARD_AGE_S


def test_requests_on_their_way_to_this_hosts_engine_are_seen_before_it_tells_of_them() -> None:
    bookings = Bookings()
    for _ in range(3):
        bookings.begin(ME, uncached_tokens=500.0, now_s=NOW_S)
    assert views_at(bookings=bookings)[ME].load == 3 / 2


def test_a_router_forgets_what_it_measured_and_suspected_of_a_peer_that_is_forgotten() -> None:
    node: Any = SimpleNamespace(now_s=lambda: NOW_S, rng=random.Random(1))
    router = Router(
        **stand_ins(taken_s=NOW_S, as_of_s=NOW_S),
        clock=node,
        entropy=node,
        tenants=node,
        policy=policy_named("cost"),
        zone=None,
        zone_rules=(),
        serves=lambda _: True,
    )
    router.failed(OTHER, NOW_S)
    router.measured.on_rtt(OTHER, 5.0)
    broken = FirstToken(
        elapsed_s=20.0,
        start_s=0.0,
        prompt_tokens=1000,
        promised_tokens=900.0,
        reported_tokens=0,
        found_idle=True,
    )
    router.measured.on_first_token(OTHER, broken, NOW_S)
    assert router.measured.trust(OTHER) < 1
    assert router.probation.standing(OTHER, NOW_S) is Standing.SUSPECTED
    router.on_forgotten(OTHER)
    assert router.probation.standing(OTHER, NOW_S) is Standing.CLEAR
    assert router.measured.trust(OTHER) == 1
    assert router.measured.rtt_s(OTHER) < 1


def test_a_forgotten_record_reaches_the_router() -> None:
    async def main() -> None:
        async with world_of(1, [FAST] * 2) as world:
            await everybody_ready(world)
            running, other = world.hosts[0].running, world.hosts[1].identity.peer_id
            running.router.failed(other, NOW_S)
            assert running.router.probation.suspected(other)
            running.knowledge._do([RecordForgotten(other)])
            assert not running.router.probation.suspected(other)
            assert running.knowledge.models(other) == ()

    simulate(1, main)
