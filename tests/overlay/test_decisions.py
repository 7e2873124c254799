"""What was decided: the last thousand requests, each for its own tenant, without prompts."""

from __future__ import annotations

import pytest

from chaos.world import world_of
from overlay.decisions import KEPT, DecisionLog, Outcome
from overlay.route import Route
from security.tenant import TenantId
from tests.overlay.peers_world import FAST, everybody_ready, simulate

A, B = TenantId("a" * 32), TenantId("b" * 32)
MARKER = "zanzibar-marker"


@pytest.fixture(scope="module", name="route")
def _route() -> Route:
    """A route of a real router."""

    async def main() -> Route:
        async with world_of(71, [FAST] * 2) as world:
            await everybody_ready(world)
            await world.ask(world.hosts[0], f"{MARKER} " * 40)
            explained = world.hosts[0].running.decisions.last(None)
            assert explained is not None
            return explained.routes[0]

    return simulate(71, main)


def test_the_last_thousand_requests_are_kept(route: Route) -> None:
    log = DecisionLog()
    for number in range(KEPT + 250):
        log.decided(str(number), A, route, float(number))
    assert KEPT == 1000
    assert len(log._requests) == KEPT
    assert log.find("249", A) is None
    assert log.find("250", A) is not None
    newest = log.last(A)
    assert newest is not None
    assert newest.request_id == str(KEPT + 249)


def test_a_tenant_sees_its_own_requests_only_and_the_owner_all(route: Route) -> None:
    log = DecisionLog()
    log.decided("1", A, route, 1.0)
    log.decided("2", B, route, 2.0)
    assert log.find("1", B) is None
    assert log.find("2", A) is None
    for tenant, found in ((A, "1"), (B, "2"), (None, "2")):
        last = log.last(tenant)
        assert last is not None
        assert last.request_id == found
    assert log.last(TenantId("c" * 32)) is None
    assert log.find("1", None) is log.find("1", A)


def test_retries_are_further_routes_of_one_request(route: Route) -> None:
    log = DecisionLog(kept=2)
    for at_s in (1.0, 2.0, 3.0):
        log.decided("1", A, route, at_s)
    log.ended("1", Outcome(state="stop", attempts=3))
    explained = log.find("1", A)
    assert explained is not None
    assert (len(explained.routes), explained.at_s) == (3, 1.0)
    assert explained.outcome is not None
    assert explained.outcome.attempts == 3


def test_an_end_of_a_request_that_was_never_routed_or_is_gone_is_not_kept(route: Route) -> None:
    log = DecisionLog(kept=1)
    log.ended("1", Outcome(state="invalid_request"))
    assert log.last(None) is None
    log.decided("1", A, route, 1.0)
    log.decided("2", A, route, 2.0)
    log.ended("1", Outcome(state="stop"))
    assert log.find("1", None) is None


def test_nothing_that_is_kept_has_text_of_a_prompt(route: Route) -> None:
    log = DecisionLog()
    log.decided("1", A, route, 1.0)
    assert MARKER not in repr(log.find("1", A))
