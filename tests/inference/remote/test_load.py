"""Load is what we know of our own requests and what the server says where that is more."""

from __future__ import annotations

import pytest

from inference.remote.kinds import KINDS
from inference.remote.load import LoadMeter, ServerMetrics, in_units, read_metrics
from inference.remote.settings import RemoteKind
from inference.request import EngineUsage
from tests.inference.remote.recordings import exchanges

VLLM = KINDS[RemoteKind.VLLM].metrics
assert VLLM is not None


def usage(prompt: int, completion: int, cached: int | None = None) -> EngineUsage:
    return EngineUsage(prompt_tokens=prompt, completion_tokens=completion, cached_tokens=cached)


def test_recorded_metrics_are_read() -> None:
    metrics = read_metrics(exchanges()["metrics"]["body"], VLLM)
    assert (metrics.running, metrics.waiting, metrics.cache_usage) == (0, 0, 0.0)
    assert (metrics.block_tokens, metrics.total_blocks) == (32, 80)
    assert metrics.cache_blocks == 160
    assert metrics.started_s is not None


def test_ranks_add_up() -> None:
    page = 'vllm:num_requests_running{engine="0"} 2\nvllm:num_requests_running{engine="1"} 3\n'
    assert read_metrics(page, VLLM).running == 5


@pytest.mark.parametrize(
    "line",
    [
        "vllm:num_requests_running nan",
        "vllm:num_requests_running -1",
        "vllm:num_requests_running 1e300",
        "vllm:num_requests_running",
        "vllm:num_requests_running{",
        'vllm:num_requests_running{a="} 1',
        "vllm:num_requests_running x",
        "vllm:num_requests_running_elsewhere 4",
        "# vllm:num_requests_running 4",
        "vllm:kv_cache_usage_perc 7",
        'vllm:cache_config_info{block_size="auto",num_gpu_blocks="-1"} 1',
        'vllm:cache_config_info{block_size="' + "9" * 5000 + '"} 1',
        "\x00\xff",
    ],
)
def test_metrics_that_make_no_sense_are_as_if_not_there(line: str) -> None:
    assert read_metrics(line + "\n", VLLM) == ServerMetrics()


def test_running_and_queued_are_split_by_the_slots() -> None:
    meter = LoadMeter(slots=2)
    for name in "abc":
        meter.sent(name, tokens=100, cached=32, now_s=0)
    load = meter.load()
    assert (load.running, load.queued, load.queued_tokens) == (2, 1, 204)
    meter.came("a", started=True, now_s=1)
    assert meter.load().queued_tokens == 136
    meter.ended("a", None, streamed=True)
    assert (meter.load().running, meter.load().queued) == (2, 0)


def test_others_may_use_the_server_too() -> None:
    meter = LoadMeter(slots=2)
    meter.sent("a", tokens=100, cached=0, now_s=0)
    meter.saw(
        ServerMetrics(running=5, waiting=2, cache_usage=0.5, block_tokens=32, total_blocks=80)
    )
    load = meter.load()
    assert (load.running, load.queued, load.used_blocks, load.total_blocks) == (5, 2, 80, 160)
    meter.forget()
    assert (meter.load().running, meter.load().total_blocks) == (0, 0)


def test_our_own_requests_are_no_strangers() -> None:
    meter = LoadMeter(slots=2)
    meter.sent("a", tokens=1000, cached=0, now_s=0)
    meter.saw(ServerMetrics(running=1, waiting=0))
    meter.came("a", started=True, now_s=1)
    assert meter.ended("a", usage(1000, 1, 0), streamed=True).alone
    # What was said of that request is old by now.
    assert (meter.load().running, meter.load().queued) == (0, 0)
    meter.sent("b", tokens=1000, cached=0, now_s=2)
    meter.came("b", started=True, now_s=3)
    assert meter.ended("b", usage(1000, 1, 0), streamed=True).alone


def test_what_waits_for_memory_is_queued() -> None:
    meter = LoadMeter(slots=64)
    for name in "abc":
        meter.sent(name, tokens=100, cached=0, now_s=0)
    meter.saw(ServerMetrics(running=2, waiting=1))
    assert (meter.load().running, meter.load().queued) == (2, 1)


def measured(
    *, tokens: int = 1000, cached: int = 0, told: EngineUsage | None, alone: bool = True
) -> LoadMeter:
    meter = LoadMeter(slots=4)
    if not alone:
        meter.sent("other", tokens=1, cached=0, now_s=0)
    meter.sent("a", tokens=tokens, cached=cached, now_s=0)
    assert not meter.came("a", started=False, now_s=1)
    assert meter.came("a", started=True, now_s=2)
    assert not meter.came("a", started=True, now_s=3)
    meter.came("a", started=True, now_s=4)
    shown = meter.ended("a", told, streamed=True)
    assert (shown.first_token_s, shown.alone) == (2, alone)
    return meter


def test_rates_are_measured_on_a_request_that_was_alone() -> None:
    meter = measured(told=usage(1000, 11, 400))
    assert meter.prefill_tokens_per_s == pytest.approx(300)
    assert meter.decode_s_per_token == pytest.approx(0.2)


def test_a_request_known_cold_is_measured_without_the_servers_word() -> None:
    assert measured(told=usage(1000, 11)).prefill_tokens_per_s == 500
    assert measured(told=usage(1000, 11), cached=64).prefill_tokens_per_s == 0


@pytest.mark.parametrize(
    "meter",
    [
        measured(told=usage(1000, 2, 0), alone=False),
        measured(told=usage(1000, 2, 990)),
        measured(told=None),
    ],
)
def test_what_would_mislead_is_not_measured(meter: LoadMeter) -> None:
    assert meter.prefill_tokens_per_s == 0
    assert meter.decode_s_per_token == 0


def test_a_whole_answer_has_no_first_token() -> None:
    meter = LoadMeter(slots=4)
    meter.sent("a", tokens=1000, cached=0, now_s=0)
    shown = meter.ended("a", usage(1000, 50, 0), streamed=False)
    assert shown.first_token_s is None
    assert meter.decode_s_per_token == 0


def test_who_is_not_known_is_nobody() -> None:
    meter = LoadMeter()
    assert not meter.came("x", started=True, now_s=1)
    assert meter.ended("x", None, streamed=True).first_token_s is None


def test_a_second_request_or_a_stranger_ends_being_alone() -> None:
    for disturb in (
        lambda meter: meter.sent("b", tokens=1, cached=0, now_s=1),
        lambda meter: meter.saw(ServerMetrics(running=2)),
    ):
        meter = LoadMeter(slots=4)
        meter.sent("a", tokens=1000, cached=0, now_s=0)
        meter.saw(ServerMetrics(running=1))
        disturb(meter)
        meter.came("a", started=True, now_s=2)
        assert not meter.ended("a", usage(1000, 1, 0), streamed=True).alone


@pytest.mark.parametrize(
    ("cached", "expected", "meant"),
    [(None, 10, None), (0, 10, 0), (50, 10, 100), (90, 10, 180), (75, 10, 160), (100, 3, 200)],
)
def test_text_units_are_about_tokens(cached: int | None, expected: int, meant: int | None) -> None:
    counted = in_units(usage(100, 1, cached), units=200, expected=expected)
    assert (counted.prompt_tokens, counted.cached_tokens) == (200, meant)
