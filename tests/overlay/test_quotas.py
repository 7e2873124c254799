"""What one client may use: rates, concurrency, floods of ids; against a model that counts."""

from __future__ import annotations

from collections import defaultdict
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from overlay.errors import RequestError
from overlay.principals import OWNER
from overlay.quotas import BURST_S, TENANTS_MAX, TOKENS_MAX, Quota, QuotaLimits, Quotas
from overlay.request import Principal, Scope
from security.tenant import TenantId


@dataclass
class HandClock:
    """A clock that is moved by hand."""

    at_s: float = 1000.0

    def now_s(self) -> float:
        return self.at_s

    def unix_s(self) -> float:
        return 1.8e9 + self.at_s


def who(name: str = "t1", tenant: str = "a") -> Principal:
    return Principal(tenant=TenantId(tenant), token_id=name, scopes=frozenset({Scope.INFER}))


@dataclass
class Desk:
    """Quotas on a clock, and the requests that hold a place."""

    limits: QuotaLimits
    clock: HandClock = field(default_factory=HandClock)
    unserved: set[str] = field(default_factory=set)
    held: list[AbstractContextManager[None]] = field(default_factory=list)
    refusals: list[RequestError] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.quotas = Quotas(
            self.limits, self.clock, serves=lambda tenant: tenant not in self.unserved
        )

    def begins(self, principal: Principal) -> bool:
        """Begins a request and leaves it under way; whether it was let in."""
        request = self.quotas.admitted(principal)
        try:
            request.__enter__()
        except RequestError as refusal:
            self.refusals.append(refusal)
            return False
        self.held.append(request)
        return True

    def ends(self) -> None:
        self.held.pop(0).__exit__(None, None, None)

    def asks(self, principal: Principal, prompt_tokens: int = 0) -> bool:
        """A whole request; whether it was let in."""
        if not self.begins(principal):
            return False
        self.quotas.charge(principal, prompt_tokens)
        self.held.pop().__exit__(None, None, None)
        return True


def of_token(**quota: float) -> QuotaLimits:
    return QuotaLimits(token=Quota(**quota))  # type: ignore[arg-type]  # by name


def test_requests_over_the_rate_are_refused_until_the_time_that_is_told() -> None:
    desk = Desk(of_token(requests_per_min=60))
    let_in = sum(desk.asks(who()) for _ in range(100))
    assert let_in == BURST_S + 1
    assert {(each.status, each.code) for each in desk.refusals} == {(429, "rate_limit_exceeded")}
    assert {each.retry_after_s for each in desk.refusals} == {1}
    desk.clock.at_s += 0.9
    assert not desk.asks(who())
    desk.clock.at_s += 0.1
    assert desk.asks(who())
    assert not desk.asks(who())
    assert desk.asks(who("another"))
    assert desk.quotas.refused == {"token_requests": 91}


def test_prompt_tokens_are_a_debt_that_is_waited_for() -> None:
    desk = Desk(of_token(prompt_tokens_per_min=600))
    assert desk.asks(who(), 1000)
    assert not desk.asks(who())
    assert desk.refusals[0].retry_after_s == 90
    desk.clock.at_s += 89
    assert not desk.asks(who())
    desk.clock.at_s += 1
    assert desk.asks(who())
    assert desk.quotas.refused == {"token_prompt_tokens": 2}


def test_requests_at_once_are_bounded_and_come_back_whatever_ended_them() -> None:
    desk = Desk(of_token(concurrent=2))
    assert [desk.begins(who()) for _ in range(3)] == [True, True, False]
    desk.ends()
    with pytest.raises(ValueError, match="broke"), desk.quotas.admitted(who()):
        raise ValueError("broke")
    assert [desk.begins(who()) for _ in range(2)] == [True, False]


def test_a_tenants_tokens_share_its_limit_and_other_tenants_have_their_own() -> None:
    desk = Desk(QuotaLimits(tenant=Quota(concurrent=2)))
    assert [desk.begins(who(f"t{number}")) for number in range(3)] == [True, True, False]
    assert desk.begins(who("t0", "b"))
    assert desk.quotas.refused == {"tenant_concurrent": 1}


def test_a_refusal_counts_nowhere() -> None:
    desk = Desk(QuotaLimits(token=Quota(concurrent=1), tenant=Quota(requests_per_min=60)))
    assert desk.begins(who())
    assert not any(desk.begins(who()) for _ in range(50))
    others = sum(desk.asks(who(f"t{number}")) for number in range(50))
    assert others == BURST_S


def test_no_limits_refuse_nobody_and_the_owner_has_none() -> None:
    free = Desk(QuotaLimits())
    assert all(free.begins(who()) for _ in range(1000))
    bound = Desk(of_token(requests_per_min=1, concurrent=1))
    assert all(bound.begins(who(OWNER)) for _ in range(100))


def test_a_flood_of_ids_takes_no_memory_and_no_more_than_one_share() -> None:
    desk = Desk(of_token(requests_per_min=60, concurrent=5))
    assert desk.asks(who("regular", "b"))
    let_in = sum(desk.asks(who(f"f{number}")) for number in range(5 * TOKENS_MAX))
    assert let_in == TOKENS_MAX + BURST_S + 1
    with ExitStack() as flood:
        for number in range(TENANTS_MAX + 256):
            stranger = who(f"t{number}", f"tenant {number}")
            flood.enter_context(desk.quotas.admitted(stranger))
    assert len(desk.quotas) <= TENANTS_MAX * (TOKENS_MAX + 1)
    assert desk.asks(who("regular", "b"))
    desk.clock.at_s += 100
    assert all(desk.asks(who(f"g{number}")) for number in range(TOKENS_MAX))


def test_tokens_of_tenants_that_are_not_served_here_take_no_places() -> None:
    desk = Desk(of_token(requests_per_min=60, concurrent=5))
    desk.unserved = {f"tenant {number}" for number in range(2 * TENANTS_MAX)}
    assert not any(desk.begins(who("t1", tenant)) for tenant in desk.unserved)
    assert {(each.status, each.code) for each in desk.refusals} == {(421, "not_a_member")}
    assert len(desk.quotas) == 0
    assert not desk.quotas.refused


RATE_PER_S = 2.0
AT_ONCE = 3
TOKENS_PER_S = 50.0
TOKENS = ("t0", "t1", "t2")


class AgainstAModel(RuleBasedStateMachine):
    """Each token is let in exactly as often as a list of what it did says that it may."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk(
            of_token(
                requests_per_min=RATE_PER_S * 60,
                prompt_tokens_per_min=TOKENS_PER_S * 60,
                concurrent=AT_ONCE,
            )
        )
        self.running: list[str] = []
        # What is left of each budget, and when that was so: a bucket, where the product has one
        # number on the time axis.
        self.requests: dict[str, float] = defaultdict(lambda: BURST_S * RATE_PER_S)
        self.tokens: dict[str, float] = defaultdict(lambda: BURST_S * TOKENS_PER_S)

    @rule(token=st.sampled_from(TOKENS))
    def begin(self, token: str) -> None:
        room = (
            self.requests[token] >= 0
            and self.tokens[token] >= 0
            and self.running.count(token) < AT_ONCE
        )
        assert self.desk.begins(who(token)) == room
        if room:
            self.running.append(token)
            self.requests[token] -= 1

    @precondition(lambda self: self.running)
    @rule(prompt_tokens=st.integers(0, 2000))
    def prompt(self, prompt_tokens: int) -> None:
        self.desk.quotas.charge(who(self.running[-1]), prompt_tokens)
        self.tokens[self.running[-1]] -= prompt_tokens

    @precondition(lambda self: self.running)
    @rule()
    def end(self) -> None:
        self.desk.ends()
        self.running.pop(0)

    @rule(quarters=st.integers(1, 200))
    def rest(self, quarters: int) -> None:
        """Quarters of a second, and rates that are powers of two or so: nothing is rounded."""
        self.desk.clock.at_s += quarters / 4
        for token in TOKENS:
            full_requests, full_tokens = BURST_S * RATE_PER_S, BURST_S * TOKENS_PER_S
            self.requests[token] = min(
                full_requests, self.requests[token] + quarters / 4 * RATE_PER_S
            )
            self.tokens[token] = min(full_tokens, self.tokens[token] + quarters / 4 * TOKENS_PER_S)

    @invariant()
    def is_bounded(self) -> None:
        assert len(self.desk.quotas) <= 1 + len(TOKENS)


AgainstAModel.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestAgainstAModel = AgainstAModel.TestCase
