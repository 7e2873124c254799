"""The forward passes of one step: one for the whole batch where memory allows, halves where not.

Rules:

1. A pass that runs out of memory is done again as two halves, and later passes are no larger than
   the halves until :data:`CALM_STEPS` steps went well; then they may grow again, row by row.
2. A pass that breaks in another way is halved as well, until the request that breaks it stands
   alone: that one fails, the others go on.
3. A device that reports a fault of its own leaves nothing to rely on: the error is passed on. So
   it is after :data:`SICK_STEPS` steps in a row in which no pass went well for other reasons than
   memory, as the fault is not a request's then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from inference.errors import EngineFailed
from inference.failure import kind_and_place
from inference.hardware import is_device_fault, is_out_of_memory
from inference.step import Rows

CALM_STEPS = 16
SICK_STEPS = 3

Outcome = torch.Tensor | EngineFailed | None
"""The last row's logits, None where none were asked for, or why the request failed."""


class Computes(Protocol):
    """What runs one pass (``inference.step.ModelStep``)."""

    def run(self, batch: Sequence[Rows]) -> list[torch.Tensor | None]: ...


class Passes:
    """Computes batches over a model, whatever breaks.

    ``requests_max`` is how many requests a pass may hold at present, None while that is unlimited.
    """

    def __init__(self, step: Computes) -> None:
        self._step = step
        self.requests_max: int | None = None
        self._calm = 0
        self._sick = 0

    def compute(self, batch: Sequence[Rows]) -> list[Outcome]:
        """What each request's rows gave, in the order given.

        Raises:
            Exception: Whatever the device said, where nothing can be relied on any more.
        """
        outcomes: list[Outcome] = []
        trouble: list[Exception] = []
        size = self.requests_max or len(batch)
        for first in range(0, len(batch), size):
            outcomes += self._halved(batch[first : first + size], trouble)
        self._judge(outcomes, trouble, len(batch))
        return outcomes

    def _judge(self, outcomes: list[Outcome], trouble: list[Exception], requests: int) -> None:
        if all(isinstance(outcome, EngineFailed) for outcome in outcomes):
            # Memory that is short even for one request may be there again for the next.
            self._sick += not is_out_of_memory(trouble[-1])
            if self._sick >= SICK_STEPS:
                self._sick = 0
                raise trouble[-1]
            return
        self._sick = 0
        if trouble or self.requests_max is None:
            self._calm = 0
            return
        self._calm += 1
        if self._calm >= CALM_STEPS:
            self._calm = 0
            larger = self.requests_max + 1
            self.requests_max = larger if larger < requests else None

    def _halved(self, batch: Sequence[Rows], trouble: list[Exception]) -> list[Outcome]:
        try:
            return list(self._step.run(batch))
        except Exception as error:
            if is_device_fault(error):
                raise
            trouble.append(error)
            out_of_memory = is_out_of_memory(error)
            reason = "out of memory" if out_of_memory else kind_and_place(error)
        # Outside of the handler: there the error would keep the pass's tensors alive.
        if out_of_memory:
            torch.cuda.empty_cache()
        if len(batch) == 1:
            return [EngineFailed(f"computing this request failed: {reason}")]
        half = len(batch) // 2
        if out_of_memory:
            self.requests_max = min(half, self.requests_max or half)
        return self._halved(batch[:half], trouble) + self._halved(batch[half:], trouble)
