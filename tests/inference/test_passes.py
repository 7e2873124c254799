"""A batch that breaks is halved: memory that is short, and requests that break a pass."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from inference.errors import EngineFailed
from inference.hardware import is_device_fault, is_out_of_memory
from inference.passes import CALM_STEPS, SICK_STEPS, Passes
from inference.step import Rows

NO_MEMORY = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte")


class Fragile:
    """Runs out of memory above ``most`` requests and breaks on those that start at a bad place."""

    def __init__(
        self, most: int = 100, bad: Sequence[int] = (), error: Exception = NO_MEMORY
    ) -> None:
        self.most = most
        self.bad = bad
        self.error = error
        self.sizes: list[int] = []

    def run(self, batch: Sequence[Rows]) -> list[torch.Tensor | None]:
        self.sizes.append(len(batch))
        if len(batch) > self.most:
            raise self.error
        if any(rows.start in self.bad for rows in batch):
            raise ValueError("a bad place")
        return [torch.tensor([float(rows.start)]) for rows in batch]


def batch_of(count: int) -> list[Rows]:
    return [
        Rows(token_ids=[5], start=start, blocks=[0], decode=True, logits=True)
        for start in range(count)
    ]


def numbers(outcomes: Sequence[object]) -> list[float | None]:
    return [
        float(outcome) if isinstance(outcome, torch.Tensor) else None  # the others failed
        for outcome in outcomes
    ]


def test_all_is_one_pass_where_nothing_breaks() -> None:
    step = Fragile()
    assert numbers(Passes(step).compute(batch_of(8))) == list(range(8))
    assert step.sizes == [8]


@pytest.mark.parametrize(
    "error", [NO_MEMORY, MemoryError(), torch.OutOfMemoryError("CUDA out of memory")]
)
def test_out_of_memory_halves_the_batch_and_goes_on(error: Exception) -> None:
    step = Fragile(most=3, error=error)
    passes = Passes(step)
    assert numbers(passes.compute(batch_of(8))) == list(range(8))
    assert step.sizes == [8, 4, 2, 2, 4, 2, 2]
    assert passes.requests_max == 2
    step.sizes.clear()
    assert numbers(passes.compute(batch_of(8))) == list(range(8))
    assert step.sizes == [2, 2, 2, 2]


def test_a_batch_grows_again_when_memory_is_back() -> None:
    step = Fragile(most=3)
    passes = Passes(step)
    passes.compute(batch_of(8))
    step.most = 100
    for _ in range(CALM_STEPS * 7):
        passes.compute(batch_of(8))
    assert passes.requests_max is None
    step.sizes.clear()
    passes.compute(batch_of(8))
    assert step.sizes == [8]


def test_one_request_that_has_no_memory_alone_fails() -> None:
    outcomes = Passes(Fragile(most=0)).compute(batch_of(2))
    assert all(isinstance(outcome, EngineFailed) for outcome in outcomes)
    assert "out of memory" in str(outcomes[0])


def test_the_request_that_breaks_a_pass_is_found() -> None:
    passes = Passes(Fragile(bad=[3, 6]))
    for _ in range(2 * SICK_STEPS):
        given = numbers(passes.compute(batch_of(8)))
        assert given == [0, 1, 2, None, 4, 5, None, 7]
    # That is no lack of memory: passes stay whole.
    assert passes.requests_max is None


def test_steps_that_break_altogether_again_and_again_are_passed_on() -> None:
    passes = Passes(Fragile(bad=range(8)))
    for _ in range(SICK_STEPS - 1):
        assert numbers(passes.compute(batch_of(4))) == [None] * 4
    with pytest.raises(ValueError, match="a bad place"):
        passes.compute(batch_of(4))


def test_a_fault_of_the_device_is_passed_on_at_once() -> None:
    fault = torch.AcceleratorError("CUDA error: device-side assert triggered")
    assert is_device_fault(fault)
    with pytest.raises(torch.AcceleratorError):
        Passes(Fragile(most=0, error=fault)).compute(batch_of(2))


def test_what_allocators_say_is_understood() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
    assert not is_device_fault(caught.value)
