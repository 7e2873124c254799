"""Holds an engine's answers against transformers' own, position by position.

The engine is teacher-forced: whatever it would choose, it goes on with the reference's token, so
that every position can be compared. A near-tie is a position where the reference's two largest
logits are closer than :data:`NEAR_TIE`. Up to an answer's first near-tie the engine must choose the
very same token; everywhere its logits must be within :data:`LOGITS_TOLERANCE`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest.mock import patch

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from inference.generation import Generation
from inference.request import EngineRequest, Sampling
from inference.sampler import SamplingDefaults
from tests.inference.bench import Bench

NEAR_TIE = 1e-3
LOGITS_TOLERANCE = 1e-3
NEAR_TIES_MAX = 0.01


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What ``generate`` answers to a prompt, and the logits behind each of its tokens."""

    prompt: tuple[int, ...]
    token_ids: tuple[int, ...]
    logits: torch.Tensor

    @property
    def near_ties(self) -> torch.Tensor:
        """Which positions of the answer are near-ties."""
        first, second = self.logits.topk(2, dim=-1).values.unbind(-1)
        return first - second <= NEAR_TIE


class Reference:
    """The same weights, computed by transformers alone."""

    def __init__(self, bench: Bench) -> None:
        self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            bench.core.posture.folder, dtype=torch.float32, local_files_only=True
        ).eval()
        self._end_tokens = sorted(bench.core._end_tokens)
        self._known: dict[tuple[tuple[int, ...], int], Expected] = {}

    @torch.inference_mode()
    def answer(self, prompt: Sequence[int], max_tokens: int) -> Expected:
        key = tuple(prompt), max_tokens
        if key not in self._known:
            given = torch.tensor([prompt])
            whole = self.model.generate(
                given,
                attention_mask=torch.ones_like(given),
                do_sample=False,
                max_new_tokens=max_tokens,
                eos_token_id=self._end_tokens,
                pad_token_id=0,
            )[0]
            logits = self.model(whole[None], use_cache=False).logits[0].float()
            self._known[key] = Expected(
                prompt=key[0],
                token_ids=tuple(whole[len(prompt) :].tolist()),
                logits=logits[len(prompt) - 1 : -1].clone(),
            )
        return self._known[key]


@dataclass
class Comparison:
    """What was compared so far."""

    positions: int = 0
    near_ties: int = 0
    differing_choices: int = 0
    largest_difference: float = 0.0
    problems: list[str] = field(default_factory=list)

    def take(self, name: str, at: int, logits: torch.Tensor, expected: Expected) -> None:
        """One position of an answer."""
        self.positions += 1
        near_ties = expected.near_ties
        self.near_ties += bool(near_ties[at])
        difference = float((logits - expected.logits[at]).abs().max())
        self.largest_difference = max(self.largest_difference, difference)
        choice = int(logits.argmax())
        if choice != expected.token_ids[at]:
            self.differing_choices += 1
            if not bool(near_ties[: at + 1].any()):
                self.problems.append(f"{name}: token {at} is {choice}")
        if not difference <= LOGITS_TOLERANCE:
            self.problems.append(f"{name}: logits of token {at} differ by {difference:.2g}")

    def check(self) -> None:
        """Raises unless all was equal and near-ties are rare."""
        assert not self.problems, self.problems[:5]
        assert self.positions
        assert self.near_ties <= NEAR_TIES_MAX * self.positions, str(self)

    def __str__(self) -> str:
        return (
            f"{self.positions} positions, {self.near_ties} near-ties, "
            f"{self.differing_choices} other choices at or after one, "
            f"largest difference {self.largest_difference:.2g}"
        )


@contextmanager
def forced(expected: Sequence[tuple[str, Expected]], seen: Comparison) -> Iterator[None]:
    """Within, requests with seed ``n`` are given the tokens of ``expected[n]``, and compared."""

    def chosen(
        logits: torch.Tensor, sampling: Sampling, _defaults: SamplingDefaults, *, position: int
    ) -> int:
        name, answer = expected[sampling.seed]
        at = position - len(answer.prompt)
        seen.take(name, at, logits, answer)
        return answer.token_ids[at]

    with patch("inference.scheduler.choose", chosen):
        yield


def compare(
    bench: Bench,
    expected: Sequence[tuple[str, Expected]],
    seen: Comparison,
    *,
    emitted: Sequence[int] | None = None,
    at_once: int | None = None,
    shaken: random.Random | None = None,
) -> None:
    """Asks for all answers and takes what comes into ``seen``.

    Args:
        bench: The engine.
        expected: The answers, with names for messages.
        seen: Where the comparison is kept.
        emitted: How many tokens of each answer are given already.
        at_once: How many are asked at first; one more is added with each step.
        shaken: Chooses running requests that are preempted, and when.
    """
    requests: list[EngineRequest] = []
    for number, (_, answer) in enumerate(expected):
        cut = 0 if emitted is None else emitted[number]
        request = bench.request(
            answer.prompt,
            emitted=answer.token_ids[:cut],
            seed=number,
            max_tokens=len(answer.token_ids),
        )
        requests.append(request)
    answers: dict[str, list[int]] = {
        request.request_id: list(request.emitted) for request in requests
    }
    waiting = list(requests)
    with forced(expected, seen):
        for _ in range(len(waiting) if at_once is None else at_once):
            bench.core.add(waiting.pop(0))
        while waiting or bench.core.has_work():
            for name, event in bench.step().events:
                answers[name] += event.token_ids or ()
            if waiting:
                bench.core.add(waiting.pop(0))
            if shaken is not None and bench.core._batch.running and shaken.random() < 0.2:
                preempt(bench, shaken.choice(bench.core._batch.running))
    for request, (name, answer) in zip(requests, expected, strict=True):
        assert tuple(answers[request.request_id]) == answer.token_ids, name


def preempt(bench: Bench, generation: Generation) -> None:
    """What happens where blocks run out, without their running out."""
    bench.core._batch._preempt(generation)
    bench.core._take_back()
