"""The demo's checks must be able to fail: each is shown a log that breaks its rule."""

from __future__ import annotations

from dataclasses import replace

from overlay.demo.checks import (
    all_requests_ended_once,
    no_cross_tenant_hit,
    outputs_equal_cold_run,
)
from overlay.demo.record import RequestRecord, summarise
from overlay.demo.workload import documents, workload

PROMPT = tuple(range(100))


def record(number: int, **changes: object) -> RequestRecord:
    base = RequestRecord(
        policy="cost",
        number=number,
        tenant="a",
        ingress="anna",
        served_by="anna",
        prompt_tokens=100,
        cached_tokens=0,
        token_ids=(1, 2),
        began_s=float(number),
        ttft_s=0.1,
        completion_s=0.2,
        hops=0,
        status="ok",
        endings=1,
    )
    return replace(base, **changes)  # type: ignore[arg-type]  # any field


PROMPTS = {(tenant, number): PROMPT for tenant in "ab" for number in range(3)}


def test_a_hit_on_the_same_tenants_earlier_prompt_is_explained() -> None:
    assert no_cross_tenant_hit([record(0), record(1, cached_tokens=96)], PROMPTS)


def test_a_hit_on_another_tenants_prompt_is_not() -> None:
    log = [record(0, tenant="b"), record(1, cached_tokens=96)]
    assert not no_cross_tenant_hit(log, PROMPTS)


def test_a_hit_on_what_another_peer_served_is_not() -> None:
    log = [record(0, served_by="bert"), record(1, cached_tokens=96)]
    assert not no_cross_tenant_hit(log, PROMPTS)


def test_a_hit_on_what_came_later_is_not() -> None:
    log = [record(0, began_s=50.0), record(1, cached_tokens=96)]
    assert not no_cross_tenant_hit(log, PROMPTS)


def test_more_cached_than_whole_blocks_of_the_shared_prefix_is_not() -> None:
    assert not no_cross_tenant_hit([record(0), record(1, cached_tokens=97)], PROMPTS)


def test_one_different_token_is_an_unequal_output() -> None:
    cold = {0: (1, 2), 1: (1, 3)}
    assert outputs_equal_cold_run([record(0)], cold)
    assert not outputs_equal_cold_run([record(0), record(1)], cold)
    assert not outputs_equal_cold_run([], cold)


def test_missing_doubled_and_failed_requests_are_seen() -> None:
    expected = {"cost": 2}
    assert all_requests_ended_once([record(0), record(1)], expected)
    assert not all_requests_ended_once([record(0)], expected)
    assert not all_requests_ended_once([record(0), record(0)], expected)
    assert not all_requests_ended_once([record(0), record(1, status="overloaded")], expected)
    assert not all_requests_ended_once([record(0), record(1, endings=2)], expected)


def test_the_workload_is_seeded_and_both_tenants_ask_the_same() -> None:
    first, again, other = (workload(seed, ("a", "b"), 3) for seed in (1, 1, 2))
    assert first == again != other
    asked = {t: sorted(str(q.messages) for q in first if q.tenant == t) for t in ("a", "b")}
    assert asked["a"] == asked["b"]
    assert len(first) == 2 * sum(len(document.questions) for document in documents())
    assert all(len(document.questions) == 4 for document in documents())


def test_the_summary_counts_tokens_not_requests() -> None:
    log = [record(0), record(1, cached_tokens=50, served_by="bert", hops=1)]
    summary = summarise(log, ("anna", "bert"), took_s=2.0)
    assert summary.hit_rate == 0.25
    assert summary.requests_per_s == 1.0
    assert summary.served == {"anna": 1, "bert": 1}
    assert summary.forwarded == 1
