"""The demo's checks must be able to fail: each is shown a log that breaks its rule."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from overlay.demo.checks import (
    all_requests_ended_once,
    no_cross_tenant_hit,
    outputs_equal_cold_run,
)
from overlay.demo.record import RequestRecord, summarise
from overlay.demo.report import show
from overlay.demo.run import DemoResult, cleaned_up, torch_files
from overlay.demo.workload import documents, workload

PROMPT = tuple(range(100))


def record(number: int, **changes: object) -> RequestRecord:
    base = RequestRecord(
        policy="cost",
        number=number,
        tenant="a",
        ingress="anna",
        served_by="anna",
        tried=("anna",),
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
    log = [record(0, served_by="bert", tried=("bert",)), record(1, cached_tokens=96)]
    assert not no_cross_tenant_hit(log, PROMPTS)


def test_a_hit_on_what_a_peer_computed_before_it_was_left_is_explained() -> None:
    left = record(0, served_by="bert", tried=("anna", "bert"))
    assert no_cross_tenant_hit([left, record(1, cached_tokens=96)], PROMPTS)


def test_a_hit_on_what_came_later_is_not() -> None:
    log = [record(0, began_s=50.0), record(1, cached_tokens=96)]
    assert not no_cross_tenant_hit(log, PROMPTS)


def test_a_hit_on_one_that_was_computed_in_the_same_batch_is_explained() -> None:
    """Neither has its first token yet: chunks of a prompt are kept as they are computed."""
    slow = record(0, ttft_s=5.0, completion_s=6.0)
    assert no_cross_tenant_hit([slow, record(1, cached_tokens=96, completion_s=9.0)], PROMPTS)


def test_more_cached_than_whole_blocks_of_the_shared_prefix_is_not() -> None:
    assert not no_cross_tenant_hit([record(0), record(1, cached_tokens=97)], PROMPTS)


def test_one_different_token_is_an_unequal_output() -> None:
    cold = {0: (1, 2), 1: (1, 3)}
    assert outputs_equal_cold_run([record(0)], cold)
    assert not outputs_equal_cold_run([record(0), record(1)], cold)
    assert not outputs_equal_cold_run([], cold)
    assert not outputs_equal_cold_run([record(0, status="overloaded")], cold)


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
    assert summary.completion_ms_mean == pytest.approx(200.0)


def test_a_folder_that_torch_left_behind_is_not_cleaned_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "torch_before").mkdir()
    before = torch_files()
    (tmp_path / "of another program").mkdir()
    assert cleaned_up([], tmp_path / "ours", before)
    (tmp_path / "torchinductor_me").mkdir()
    assert not cleaned_up([], tmp_path / "ours", before)


def shown(result: DemoResult) -> str:
    out = StringIO()
    show(result, Console(file=out, width=200))
    return out.getvalue()


def test_the_report_names_where_the_default_policy_loses_and_what_was_left_out() -> None:
    quick = summarise([record(0, ttft_s=0.05, cached_tokens=90)], ("anna",), took_s=1.0)
    slow = summarise([record(0, cached_tokens=50)], ("anna",), took_s=1.0)
    result = DemoResult(
        summaries={"cost": slow, "local": quick}, skipped=["bounded-hash"], took_s=361.0
    )
    said = shown(result)
    assert "cost was not the best in hit rate: 0.50, and local 0.90" in said
    assert "cost was not the best in TTFT p99 (ms): 100, and local 50" in said
    assert "requests/s:" not in said
    assert "--silence 10s: three engines share" in said
    assert "took 361 s; left out, as time was short: bounded-hash" in said
    assert "not the best" not in shown(DemoResult(summaries={"cost": quick, "local": slow}))
