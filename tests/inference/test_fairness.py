"""Tenants get their due: the lag bound, and an order that nobody's cache hits can change."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from inference.fairness import ANSWER_WEIGHT, FairQueue, has_room
from inference.request import Namespace
from tests.inference.bench import Bench

A, B, C = Namespace("a"), Namespace("b"), Namespace("c")


@dataclass(eq=False)
class Job:
    """A request without a model."""

    namespace: Namespace
    prompt: int
    answer: int


def start(queue: FairQueue[Job]) -> Job | None:
    first = queue.first()
    if first is None:
        return None
    namespace, job = first
    queue.take(namespace, job)
    queue.charge(namespace, job.prompt)
    return job


@given(st.lists(st.sampled_from([A, B, C]), max_size=200), st.integers(0, 12))
def test_who_fills_the_queue_keeps_out_its_own_tenant_alone(
    asking: list[Namespace], places: int
) -> None:
    waiting: list[Namespace] = []
    for each in asking:
        if has_room(each, waiting, places):
            waiting.append(each)
        else:
            assert len(waiting) >= places
            assert waiting.count(each) >= places // 3
    assert len(waiting) <= places * (1 + 1 / 2 + 1 / 3)


def test_a_tenant_alone_has_all_places_and_one_that_comes_late_its_share() -> None:
    full = [A] * 64
    assert has_room(A, full[1:], 64)
    assert not has_room(A, full, 64)
    assert has_room(B, full, 64)
    assert has_room(B, [*full, *[B] * 31], 64)
    assert not has_room(B, [*full, *[B] * 32], 64)


def test_the_tenant_that_was_given_least_is_next_and_its_oldest_request_first() -> None:
    queue: FairQueue[Job] = FairQueue()
    jobs = [Job(A, 100, 1), Job(A, 10, 1), Job(B, 30, 1), Job(B, 30, 1), Job(B, 30, 1)]
    for job in jobs:
        queue.push(job.namespace, job)
    order = [jobs.index(start(queue) or jobs[0]) for _ in jobs]
    assert order == [0, 2, 3, 4, 1]
    assert start(queue) is None


def test_having_been_idle_earns_nothing() -> None:
    queue: FairQueue[Job] = FairQueue()
    for _ in range(4):
        queue.push(A, Job(A, 100, 1))
    for _ in range(3):
        start(queue)
    for _ in range(3):
        queue.push(B, Job(B, 100, 1))
    # B stands where A stands now, not 300 tokens below.
    assert queue.counter(B) == queue.counter(A) == 300
    assert [start(queue).namespace for _ in range(4)] == [A, B, B, B]


def test_leaving_for_a_moment_clears_no_debt() -> None:
    queue: FairQueue[Job] = FairQueue()
    queue.push(B, Job(B, 10, 1))
    queue.push(A, Job(A, 500, 1))
    queue.push(B, Job(B, 10, 1))
    started = [start(queue), start(queue)]
    assert [job.namespace for job in started if job] == [A, B]
    queue.done(A)
    queue.push(A, Job(A, 500, 1))
    assert queue.counter(A) == 500
    assert queue.first()[0] == B


def test_a_request_that_goes_back_is_first_of_its_tenant() -> None:
    queue: FairQueue[Job] = FairQueue()
    first, second = Job(A, 10, 1), Job(A, 10, 1)
    queue.push(A, first)
    queue.push(A, second)
    assert start(queue) is first
    queue.push_back(A, first)
    assert start(queue) is first
    assert len(queue) == 1


def test_nothing_is_remembered_of_tenants_that_are_gone() -> None:
    queue: FairQueue[Job] = FairQueue()
    for number in range(1000):
        name = Namespace(f"tenant-{number}")
        queue.push(name, Job(name, 10, 1))
        start(queue)
        queue.done(name)
    assert not queue._counters
    assert not queue._queues
    queue.push(A, Job(A, 10, 1))
    for number in range(1000):
        name = Namespace(f"tenant-{number}")
        queue.push(name, Job(name, 10, 1))
        queue.take(name, queue._queues[name][0])
        queue.charge(name, 1)
        queue.done(name)
        queue.charge(A, 5)
    assert len(queue._counters) < 5


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 30), slots=st.integers(1, 8), tenants=st.integers(2, 5))
def test_backlogged_tenants_are_never_further_apart_than_the_bound(
    seed: int, slots: int, tenants: int
) -> None:
    """Random prompts and answers, very unequal between tenants; some are preempted."""
    rng = random.Random(seed)
    names = [Namespace(f"t{number}") for number in range(tenants)]
    longest = {name: (rng.randint(1, 400), rng.randint(1, 60)) for name in names}
    bound = max(prompt for prompt, _ in longest.values())
    bound += ANSWER_WEIGHT * slots * max(answer for _, answer in longest.values())
    queue: FairQueue[Job] = FairQueue()
    service = dict.fromkeys(names, 0)
    history: list[dict[Namespace, int]] = []
    running: list[Job] = []
    for _ in range(300):
        for name in names:
            while len(queue._queues.get(name, ())) < slots + 2:
                prompt, answer = (rng.randint(1, most) for most in longest[name])
                queue.push(name, Job(name, prompt, answer))
        while len(running) < slots:
            job = start(queue)
            assert job is not None
            service[job.namespace] += job.prompt
            job.prompt = 0
            running.append(job)
        for job in tuple(running):
            job.answer -= 1
            service[job.namespace] += ANSWER_WEIGHT
            queue.charge(job.namespace, ANSWER_WEIGHT)
            if job.answer <= 0:
                running.remove(job)
                queue.done(job.namespace)
            elif rng.random() < 0.02:
                running.remove(job)
                queue.push_back(job.namespace, job)
        counters = [queue.counter(name) for name in names]
        assert max(counters) - min(counters) <= bound
        history.append(dict(service))
    for _ in range(50):
        first, last = sorted(rng.sample(range(len(history)), 2))
        given_work = [history[last][name] - history[first][name] for name in names]
        assert max(given_work) - min(given_work) <= 2 * bound


def tokens(count: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(2, 258), k=count)


def starts(tiny: Bench, warm: bool) -> list[str]:
    """In which order requests of three tenants start, with tenant a's prompts cached or not."""
    tiny.core.reset()
    if warm:
        for number in range(3):
            tiny.ask(tokens(200, number), namespace="a", max_tokens=1)
    for number in range(3):
        for namespace, length in (("a", 200), ("b", 150), ("c", 70)):
            request = tiny.request(tokens(length, number), namespace=namespace, max_tokens=5)
            tiny.core.add(request)
    order: list[str] = []
    seen: set[str] = set()
    while tiny.core.has_work():
        tiny.step()
        for each in tiny.core._batch.running:
            if each.request_id not in seen:
                seen.add(each.request_id)
                order.append(each.namespace)
    return order


def test_a_tenants_order_does_not_depend_on_anothers_hits(
    tiny_with: Callable[..., Bench],
) -> None:
    tiny = tiny_with(slots=1)
    cold = starts(tiny, warm=False)
    assert starts(tiny, warm=True) == cold
    assert sorted(cold) == ["a"] * 3 + ["b"] * 3 + ["c"] * 3
    assert cold != sorted(cold)


def test_a_flood_of_one_tenant_does_not_hold_up_anothers_single_request(
    tiny_with: Callable[..., Bench],
) -> None:
    tiny = tiny_with(slots=2)
    for number in range(20):
        tiny.core.add(tiny.request(tokens(100, number), namespace="a", max_tokens=4))
    for _ in range(3):
        tiny.step()
    mine = tiny.request(tokens(100, 99), namespace="b", max_tokens=4)
    tiny.core.add(mine)
    ended: list[str] = []
    while mine.request_id not in ended:
        ended += [name for name, event in tiny.step().events if event.finish_reason]
    assert len(ended) <= 6
    tiny.core.reset()
