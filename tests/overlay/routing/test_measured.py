"""Our own measurements against what peers say of themselves; the peers here often lie."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.routing.measured import (
    CLAIM_DOUBLES_S,
    DECODE_DEFAULT_S_PER_TOKEN,
    FADE_HALF_LIFE_S,
    PREFILL_DEFAULT_TOKENS_PER_S,
    RTT_DEFAULT_S,
    SAMPLE_TOKENS_MIN,
    WAIT_HALF_LIFE_S,
    FirstToken,
    Measured,
)
from security.peer_id import PeerId
from tests.overlay.routing.pictures import ONE, PEERS, THREE, TWO

NO_CLAIM = 0.0
PROMPT = 2000


def seen(
    elapsed_s: float = 1.0,
    *,
    prompt: int = 1000,
    promised: float = 0.0,
    reported: int = 0,
    start_s: float = 0.0,
    idle: bool = True,
) -> FirstToken:
    return FirstToken(
        elapsed_s=elapsed_s,
        start_s=start_s,
        prompt_tokens=prompt,
        promised_tokens=promised,
        reported_tokens=reported,
        found_idle=idle,
    )


def measured_at(rate: float, peer_id: PeerId = ONE) -> Measured:
    """A peer without round trip that was seen to prefill at this rate."""
    measured = Measured()
    measured.on_rtt(peer_id, 0.0)
    measured.on_first_token(peer_id, seen(1000 / rate), 0.0)
    return measured


# -- rates


def test_a_peer_cannot_claim_to_be_faster_than_it_was_measured() -> None:
    measured = measured_at(500.0)
    measured.on_decoded(ONE, 100, 2.0, 0.0)
    for claimed in (500.0, 1e6, 1e12, math.inf):
        assert measured.prefill_tokens_per_s(ONE, claimed, 0.0) == pytest.approx(500.0)
    for claimed in (0.02, 1e-6, 5e-324):
        assert measured.decode_s_per_token(ONE, claimed, 0.0) == pytest.approx(0.02)


def test_a_peer_that_says_it_is_slower_than_measured_is_believed() -> None:
    measured = measured_at(500.0)
    measured.on_decoded(ONE, 100, 2.0, 0.0)
    assert measured.prefill_tokens_per_s(ONE, 100.0, 0.0) == 100.0
    assert measured.decode_s_per_token(ONE, 0.5, 0.0) == 0.5


def test_a_peer_never_measured_is_no_faster_than_the_fastest_that_was() -> None:
    measured = measured_at(500.0)
    measured.on_decoded(ONE, 100, 2.0, 0.0)
    assert measured.prefill_tokens_per_s(TWO, 1e12, 0.0) == pytest.approx(500.0)
    assert measured.prefill_tokens_per_s(TWO, NO_CLAIM, 0.0) == pytest.approx(500.0)
    assert measured.prefill_tokens_per_s(TWO, 50.0, 0.0) == 50.0
    assert measured.decode_s_per_token(TWO, 1e-9, 0.0) == pytest.approx(0.02)
    assert measured.decode_s_per_token(TWO, 0.3, 0.0) == 0.3


def test_rates_are_usable_numbers_where_nothing_is_known_or_claimed() -> None:
    measured = Measured()
    assert 0 < measured.prefill_tokens_per_s(ONE, NO_CLAIM, 0.0) < math.inf
    assert 0 < measured.decode_s_per_token(ONE, NO_CLAIM, 0.0) < math.inf
    assert measured.rtt_s(ONE) == RTT_DEFAULT_S


def test_a_peer_that_says_nothing_is_no_faster_than_the_fastest_that_does() -> None:
    measured = Measured()
    measured.on_claim(TWO, 200.0, 0.05, 0.0)
    measured.on_claim(THREE, 80.0, 0.0, 0.0)
    measured.on_claim(ONE, NO_CLAIM, NO_CLAIM, 0.0)
    assert measured.prefill_tokens_per_s(ONE, NO_CLAIM, 0.0) == 200.0
    assert measured.decode_s_per_token(ONE, NO_CLAIM, 0.0) == 0.05


def test_a_claim_taken_back_counts_no_more() -> None:
    measured = Measured()
    measured.on_claim(TWO, 1e12, 5e-324, 0.0)
    measured.on_claim(TWO, 200.0, 0.05, 0.0)
    assert measured.prefill_tokens_per_s(ONE, NO_CLAIM, 0.0) == 200.0
    assert measured.decode_s_per_token(ONE, NO_CLAIM, 0.0) == 0.05


def test_a_measurement_fades_towards_the_fastest_so_that_a_slow_peer_is_tried_again() -> None:
    measured = measured_at(1000.0, TWO)
    measured.on_first_token(ONE, seen(1000 / 100 + RTT_DEFAULT_S), 0.0)
    slow = [
        measured.prefill_tokens_per_s(ONE, NO_CLAIM, age * FADE_HALF_LIFE_S) for age in (0, 1, 9)
    ]
    assert slow[0] == pytest.approx(100.0, rel=0.01)
    assert slow[1] == pytest.approx(550.0, rel=0.01)
    assert 990 < slow[2] < 1000


def starved() -> Measured:
    """ONE measured itself while it was busy with other work; TWO is as fast as ONE really is."""
    measured = measured_at(1000.0, TWO)
    measured.on_decoded(TWO, 100, 1.0, 0.0)
    measured.on_rtt(ONE, 0.0)
    measured.on_claim(ONE, 50.0, 0.2, 0.0)
    return measured


def test_a_slow_claim_that_nothing_tests_lets_more_pass_up_to_the_fastest_measured() -> None:
    measured = starved()
    ages = (0.0, CLAIM_DOUBLES_S, 2 * CLAIM_DOUBLES_S, 9 * CLAIM_DOUBLES_S, 1e9)
    rates = [measured.prefill_tokens_per_s(ONE, 50.0, age_s) for age_s in ages]
    assert rates == pytest.approx([50.0, 100.0, 200.0, 1000.0, 1000.0])
    times = [measured.decode_s_per_token(ONE, 0.2, age_s) for age_s in ages]
    assert times == pytest.approx([0.2, 0.1, 0.05, 0.01, 0.01])


def test_a_claim_counts_in_full_again_once_a_request_has_tested_it() -> None:
    measured = starved()
    tested_s = 5 * CLAIM_DOUBLES_S
    assert measured.prefill_tokens_per_s(ONE, 50.0, tested_s) == pytest.approx(1000.0)
    measured.on_first_token(ONE, seen(20.0), tested_s)
    assert measured.prefill_tokens_per_s(ONE, 50.0, tested_s) == pytest.approx(50.0)


def test_a_claim_told_anew_counts_in_full_and_the_same_one_again_does_not() -> None:
    measured = starved()
    measured.on_claim(ONE, 50.0, 0.2, CLAIM_DOUBLES_S)
    assert measured.prefill_tokens_per_s(ONE, 50.0, CLAIM_DOUBLES_S) == pytest.approx(100.0)
    measured.on_claim(ONE, 60.0, 0.2, CLAIM_DOUBLES_S)
    assert measured.prefill_tokens_per_s(ONE, 60.0, CLAIM_DOUBLES_S) == pytest.approx(60.0)


def test_a_busy_peer_is_not_taken_for_a_slow_one() -> None:
    measured = measured_at(500.0)
    measured.on_first_token(ONE, seen(100.0, idle=False), 0.0)
    assert measured.prefill_tokens_per_s(ONE, NO_CLAIM, 0.0) == pytest.approx(500.0)


def test_a_busy_peer_that_was_faster_still_is_at_least_that_fast() -> None:
    measured = measured_at(500.0)
    measured.on_first_token(ONE, seen(1.0, idle=False), 0.0)
    assert measured.prefill_tokens_per_s(ONE, NO_CLAIM, 0.0) == pytest.approx(750.0)


def test_few_computed_tokens_say_nothing_about_a_rate() -> None:
    measured = measured_at(500.0)
    few = SAMPLE_TOKENS_MIN - 1
    measured.on_first_token(ONE, seen(1e-6, prompt=few), 0.0)
    measured.on_first_token(ONE, seen(1e-6, prompt=1000, reported=1000 - few), 0.0)
    assert measured.prefill_tokens_per_s(ONE, NO_CLAIM, 0.0) == pytest.approx(500.0)


def test_the_round_trip_is_no_working_time() -> None:
    measured = Measured()
    measured.on_rtt(ONE, 1.0)
    measured.on_first_token(ONE, seen(3.0), 0.0)
    assert measured.prefill_tokens_per_s(ONE, NO_CLAIM, 0.0) == pytest.approx(500.0)


def test_round_trips_are_averaged_and_the_first_counts_in_full() -> None:
    measured = Measured()
    measured.on_rtt(ONE, 0.010)
    assert measured.rtt_s(ONE) == 0.010
    measured.on_rtt(ONE, 0.020)
    assert measured.rtt_s(ONE) == pytest.approx(0.012)


def test_a_single_token_answer_says_nothing_about_decoding() -> None:
    measured = measured_at(500.0)
    before = measured.decode_s_per_token(ONE, NO_CLAIM, 0.0)
    measured.on_decoded(ONE, 0, 0.0, 0.0)
    assert measured.decode_s_per_token(ONE, NO_CLAIM, 0.0) == before


# -- trust


def trust_after(measured: Measured, first_token: FirstToken, requests: int = 60) -> float:
    for _ in range(requests):
        measured.on_first_token(ONE, first_token, 0.0)
    return measured.trust(ONE)


def test_a_peer_is_trusted_until_it_breaks_a_promise() -> None:
    assert Measured().trust(ONE) == 1.0


def test_a_kept_promise_keeps_trust() -> None:
    kept = seen(0.2, prompt=1000, promised=900, reported=900)
    assert trust_after(measured_at(500.0), kept) == pytest.approx(1.0)


def test_an_honest_report_of_a_broken_promise_costs_trust() -> None:
    broken = seen(2.0, prompt=1000, promised=900, reported=0)
    assert trust_after(measured_at(500.0), broken) == pytest.approx(0.0, abs=1e-4)


def test_a_liar_that_reports_cached_tokens_too_is_told_by_the_time_it_took() -> None:
    """All 2,000 tokens were computed; it says that none were."""
    lie = seen(4.0, prompt=PROMPT, promised=1900, reported=PROMPT)
    assert trust_after(measured_at(500.0), lie) <= 0.01


def test_a_liar_whose_speed_was_never_measured_is_told_by_that_of_the_others() -> None:
    """It always says that all was cached, so that no request of its own gives a rate."""
    measured = measured_at(500.0, TWO)
    measured.on_rtt(ONE, 0.0)
    lie = seen(4.0, prompt=PROMPT, promised=1900, reported=PROMPT)
    assert trust_after(measured, lie) <= 0.01


def test_a_slow_peer_that_says_so_and_keeps_its_promises_is_trusted_unmeasured() -> None:
    measured = measured_at(5000.0, TWO)
    measured.on_rtt(ONE, 0.0)
    measured.on_claim(ONE, 50.0, 0.0, 0.0)
    honest = seen(0.8, prompt=1000, promised=960, reported=960)
    assert trust_after(measured, honest) == pytest.approx(1.0)


def test_a_peer_as_fast_as_it_promised_is_harmless_whatever_it_reports() -> None:
    fast = seen(0.2, prompt=PROMPT, promised=1900, reported=1900)
    assert trust_after(measured_at(500.0), fast) == pytest.approx(1.0)


def test_trust_comes_back_with_promises_kept() -> None:
    measured = measured_at(500.0)
    trust_after(measured, seen(2.0, promised=900, reported=0))
    assert trust_after(measured, seen(0.2, promised=900, reported=900)) > 0.95


def test_a_small_promise_neither_earns_nor_costs_trust() -> None:
    broken = seen(2.0, promised=SAMPLE_TOKENS_MIN - 1, reported=0)
    assert trust_after(measured_at(500.0), broken) == 1.0


def test_a_queue_in_front_is_no_broken_promise() -> None:
    waited = seen(5.2, prompt=1000, promised=900, reported=900, start_s=5.0)
    assert trust_after(measured_at(500.0), waited) == pytest.approx(1.0)


def test_a_liar_about_cached_tokens_makes_its_own_rate_look_worse() -> None:
    """It computed 2,000 tokens within 4 s, and says that it was 100."""
    measured = measured_at(500.0)
    for _ in range(60):
        lie = seen(4.0, prompt=PROMPT, promised=0.0, reported=PROMPT - 100)
        measured.on_first_token(ONE, lie, 0.0)
    assert measured.prefill_tokens_per_s(ONE, 1e12, 0.0) == pytest.approx(25.0, rel=0.01)


# -- waits and load


def test_a_wait_beyond_the_prefill_is_observed_and_fades_to_that_of_all() -> None:
    measured = measured_at(500.0)
    measured.on_first_token(ONE, seen(12.0, idle=False), 0.0)
    assert measured.observed_wait_s(ONE, 0.0) == pytest.approx(10.0)
    measured.on_rtt(TWO, 0.0)
    measured.on_first_token(TWO, seen(2.0), 0.0)
    measured.on_first_token(TWO, seen(2.0), 0.0)
    assert measured.observed_wait_s(TWO, 0.0) == pytest.approx(0.0)
    everywhere_s = measured.observed_wait_s(THREE, 0.0)
    assert 0 < everywhere_s < 10
    assert measured.observed_wait_s(ONE, 30 * WAIT_HALF_LIFE_S) == pytest.approx(everywhere_s)


def test_a_wait_that_the_peer_tells_counts_as_one() -> None:
    measured = measured_at(500.0)
    measured.on_first_token(ONE, seen(8.0, start_s=7.0), 0.0)
    assert measured.observed_wait_s(ONE, 0.0) == pytest.approx(7.0, abs=0.5)


def test_a_wait_that_is_told_counts_up_to_the_time_that_passed() -> None:
    measured = measured_at(500.0)
    measured.on_first_token(ONE, seen(2.0, start_s=1e16), 0.0)
    assert measured.observed_wait_s(ONE, 0.0) == pytest.approx(2.0)
    assert measured.observed_wait_s(THREE, 0.0) <= 2.0


def test_a_load_hint_is_old_after_the_time_of_a_few_requests() -> None:
    short, long = measured_at(500.0), measured_at(500.0)
    for measured, elapsed_s in ((short, 0.1), (long, 100.0)):
        measured.on_decoded(ONE, 100, elapsed_s, 0.0)
    assert short.load_freshness(0.0) == long.load_freshness(0.0) == 1.0
    assert short.load_freshness(5.0) < 0.01
    assert long.load_freshness(5.0) > 0.9
    assert Measured().load_freshness(math.inf) == 0.0


def test_a_peer_that_left_is_unknown_again() -> None:
    measured = measured_at(100.0)
    measured.on_rtt(ONE, 5.0)
    trust_after(measured, seen(2.0, promised=900, reported=0))
    measured.forget(ONE)
    assert measured.trust(ONE) == 1.0
    assert measured.rtt_s(ONE) == RTT_DEFAULT_S


def test_what_a_peer_that_left_claimed_or_showed_is_no_prior_for_others() -> None:
    measured = measured_at(5000.0)
    measured.on_decoded(ONE, 100, 0.1, 0.0)
    measured.on_claim(ONE, 9000.0, 0.001, 0.0)
    measured.forget(ONE)
    rate = measured.prefill_tokens_per_s(TWO, NO_CLAIM, 0.0)
    assert rate == PREFILL_DEFAULT_TOKENS_PER_S
    assert measured.decode_s_per_token(TWO, NO_CLAIM, 0.0) == DECODE_DEFAULT_S_PER_TOKEN


# -- anything at all

TOLD = st.builds(
    FirstToken,
    elapsed_s=st.sampled_from([0.0, -1.0, 1e-9, 0.5, 1e9]),
    start_s=st.sampled_from([0.0, 0.5, 1e16]),
    prompt_tokens=st.sampled_from([0, 1, 64, 8192]),
    promised_tokens=st.sampled_from([0.0, 64.0, 8192.0, 1e18]),
    reported_tokens=st.sampled_from([0, 64, 8192, 1 << 62]),
    found_idle=st.booleans(),
)


@settings(derandomize=True, deadline=None)
@given(
    told=st.lists(st.tuples(st.sampled_from(PEERS[:3]), TOLD, st.floats(0, 1e5)), max_size=20),
    decoded=st.lists(
        st.tuples(st.sampled_from(PEERS[:3]), st.integers(0, 9), st.floats(0, 1e6)), max_size=5
    ),
    claimed=st.sampled_from([0.0, 5e-324, 1000.0, 1e12]),
)
def test_whatever_peers_tell_rates_are_numbers_and_trust_is_a_share(
    told: list[tuple[PeerId, FirstToken, float]],
    decoded: list[tuple[PeerId, int, float]],
    claimed: float,
) -> None:
    measured = Measured()
    measured.on_rtt(ONE, 0.001)
    for peer_id, first_token, now_s in told:
        measured.on_first_token(peer_id, first_token, now_s)
    for peer_id, tokens, elapsed_s in decoded:
        measured.on_decoded(peer_id, tokens, elapsed_s, 1e5)
    for peer_id in PEERS[:3]:
        assert 0 <= measured.trust(peer_id) <= 1
        assert 0 < measured.prefill_tokens_per_s(peer_id, claimed, 1e5) < math.inf
        assert 0 <= measured.decode_s_per_token(peer_id, claimed, 1e5) < math.inf
        assert 0 <= measured.observed_wait_s(peer_id, 1e5) < math.inf
        assert 0 <= measured.load_freshness(2.0) <= 1


def test_the_wait_that_a_late_peer_tells_counts_until_its_load_hint_is_newer() -> None:
    measured = Measured()
    late = {"start_s": 5.0, "promised_tokens": 0.0, "reported_tokens": 0}
    measured.on_late(ONE, **late, now_s=10.0)  # type: ignore[arg-type]
    assert measured.told_wait_s(ONE, 9.0, 11.0) == 4.0
    assert measured.told_wait_s(ONE, 9.0, 16.0) == 0.0
    assert measured.told_wait_s(ONE, 10.0, 11.0) == 0.0
    assert measured.told_wait_s(TWO, 9.0, 11.0) == 0.0
    assert measured.trust(ONE) == 1.0


def test_a_late_peer_that_does_not_hold_what_it_promised_loses_trust() -> None:
    measured = Measured()
    for now_s in range(20):
        measured.on_late(
            ONE, start_s=0.0, promised_tokens=800.0, reported_tokens=0, now_s=float(now_s)
        )
    assert measured.trust(ONE) < 0.5
