"""The twin without an overlay: what is answered, and how long the first token takes."""

from __future__ import annotations

import pytest

from chaos.modes.asked import prompt_ids
from chaos.twin import TwinRequest, twin_of
from inference.errors import ContextOverflow
from inference.request import EngineRequest, Namespace, Sampling
from inference.toy import ToyConfig, ToyEngine

FAST = ToyConfig(slots=2, prefill_tokens_per_s=100.0, decode_s_per_token=0.1, end_every=0)
LONG = prompt_ids(" water" * 95)


def request(number: int, at_s: float, **more: object) -> TwinRequest:
    values = {
        "id": f"r{number}",
        "at_s": at_s,
        "ingress": "n1",
        "tenant": "a",
        "token_ids": LONG,
        "max_tokens": 4,
        **more,
    }
    return TwinRequest(**values)  # type: ignore[arg-type]


def test_a_first_token_takes_the_prefill_and_a_cached_prompt_less() -> None:
    assert len(LONG) == 98
    twin = twin_of([request(1, 5.0), request(2, 50.0)], lambda _: FAST)
    assert twin.ttft_s["r1"] == pytest.approx(0.98)
    assert twin.ttft_s["r2"] == pytest.approx(0.02)
    assert twin.tokens["r1"] == twin.tokens["r2"]
    assert len(twin.tokens["r1"]) == 4


def test_requests_wait_for_each_other_at_one_ingress_and_not_across() -> None:
    other = prompt_ids(" light" * 95)
    twin = twin_of(
        [
            request(1, 5.0),
            request(2, 5.0, token_ids=other),
            request(3, 5.0, token_ids=other, ingress="n2"),
        ],
        lambda _: FAST,
    )
    assert twin.ttft_s["r3"] == pytest.approx(0.98)
    assert twin.ttft_s["r2"] > 1.9


def test_tenants_share_no_cache() -> None:
    twin = twin_of([request(1, 5.0), request(2, 50.0, tenant="b")], lambda _: FAST)
    assert twin.ttft_s["r2"] == pytest.approx(0.98)


def test_who_left_holds_nobody_up_and_has_no_first_token() -> None:
    twin = twin_of(
        [request(1, 0.0, left_s=0.5, token_ids=LONG * 8), request(2, 1.0)], lambda _: FAST
    )
    assert "r1" not in twin.ttft_s
    assert twin.ttft_s["r2"] < 4.0


def test_a_refused_request_has_no_answer() -> None:
    small = ToyConfig(context_tokens=64)
    twin = twin_of([request(1, 0.0)], lambda _: small)
    assert dict(twin.tokens) == {}
    assert dict(twin.ttft_s) == {}


@pytest.mark.parametrize("end_every", [0, 4, 64])
@pytest.mark.parametrize("max_tokens", [1, 30, 158, 159])
def test_a_cold_answer_is_the_one_of_a_fresh_engine(end_every: int, max_tokens: int) -> None:
    config = ToyConfig(context_tokens=256, end_every=end_every)
    twin = twin_of([request(1, 0.0, max_tokens=max_tokens)], lambda _: config)
    assert twin.tokens.get("r1") == answer_of(ToyEngine(config), max_tokens)


def answer_of(engine: ToyEngine, max_tokens: int) -> tuple[int, ...] | None:
    """The whole answer of an engine to the prompt that is asked here; None where it refuses it."""
    asked = EngineRequest(
        request_id="r1",
        namespace=Namespace("a"),
        chain_key=bytes(32),
        model="toy",
        token_ids=LONG,
        sampling=Sampling(temperature=0.0, seed=1, max_tokens=max_tokens),
    )
    try:
        engine.add(asked)
    except ContextOverflow:
        return None
    found: list[int] = []
    while engine.has_work():
        for _, event in engine.step().events:
            found += event.token_ids or ()
    return tuple(found)


def test_a_slow_node_is_slow_in_the_twin_too() -> None:
    slow = ToyConfig(slots=2, prefill_tokens_per_s=10.0, decode_s_per_token=0.1, end_every=0)
    twin = twin_of(
        [request(1, 0.0), request(2, 0.0, ingress="n2")],
        lambda name: slow if name == "n2" else FAST,
    )
    assert twin.ttft_s["r2"] == pytest.approx(10 * twin.ttft_s["r1"])


def test_a_node_that_was_cut_off_is_compared_with_one_that_begins_cold() -> None:
    asked = [request(1, 5.0), request(2, 50.0), request(3, 60.0), request(4, 50.0, ingress="n2")]
    twin = twin_of([*asked, request(0, 5.0, ingress="n2")], lambda _: FAST, {"n1": (40.0,)})
    assert twin.ttft_s["r2"] == pytest.approx(0.98)
    assert twin.ttft_s["r3"] < 0.1
    assert twin.ttft_s["r4"] == pytest.approx(0.02)
