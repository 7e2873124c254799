"""One forward pass over rows of any number of requests, in prefill and decode alike.

Prefill stops at absolute multiples of :data:`CHUNK_TOKENS`, so that a warm and a cold prefill do
the same arithmetic (``inference/attention.py``) and long prompts do not hold up the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from inference.attention import ROWS_MIN, Layout, PagedAttention, Span
from inference.pool import BlockPool, Slots, slot_numbers

CHUNK_TOKENS = 256
"""Prompt tokens in one step. 64 costs 40 % more prefill time, 512 gains 3 % and is less fair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What to compute for one request: the tokens from position ``start`` on.

    ``blocks`` is its block table, long enough for them. ``decode`` says that the one row comes
    after the prompt; ``logits`` asks for the last row's logits.
    """

    token_ids: Sequence[int]
    start: int
    blocks: Sequence[int]
    decode: bool
    logits: bool

    def __post_init__(self) -> None:
        assert self.token_ids
        assert len(self.token_ids) == 1 or not self.decode

    @property
    def end(self) -> int:
        """The position after the last row."""
        return self.start + len(self.token_ids)


def chunk_end(start: int, prompt_end: int) -> int:
    """Where the prefill step that begins at ``start`` stops."""
    return min(prompt_end, (start // CHUNK_TOKENS + 1) * CHUNK_TOKENS)


class ModelStep:
    """Runs a model over a pool; the model's attention is replaced for good."""

    def __init__(self, model: PreTrainedModel, pool: BlockPool, *, context_tokens: int) -> None:
        self._model = model
        self._pool = pool
        self.attention = PagedAttention(pool, context_tokens=context_tokens)
        self.attention.attach(model)

    def run(self, batch: Sequence[Rows]) -> list[torch.Tensor | None]:
        """Computes the rows and keeps their keys and values in the pool.

        Returns:
            For each request its last row's logits (``[vocabulary]``, float32, on the CPU), or None
            where they were not asked for.
        """
        ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        spans: list[Span] = []
        keep: list[int] = []
        for rows in batch:
            spans.append(self._span(rows, first=len(ids)))
            ids.extend(rows.token_ids)
            positions.extend(range(rows.start, rows.end))
            slots.extend(slot_numbers(rows.blocks, rows.start, rows.end))
            if rows.logits:
                keep.append(len(ids) - 1)
        if not all(rows.decode for rows in batch):
            padding = max(0, ROWS_MIN - len(ids))
            ids += ids[-1:] * padding
            positions += positions[-1:] * padding
            slots += [self._pool.dump_slot] * padding
        layout = Layout(slots=self._tensor(slots), spans=tuple(spans))
        logits = iter(self._forward(ids, positions, layout, keep))
        return [next(logits) if rows.logits else None for rows in batch]

    def close(self) -> None:
        """Gives the pool's memory back."""
        self._pool.close()

    @torch.inference_mode()
    def _forward(
        self, ids: list[int], positions: list[int], layout: Layout, keep: list[int]
    ) -> list[torch.Tensor]:
        self.attention.layout = layout
        try:
            output = self._model(
                input_ids=self._tensor(ids)[None],
                position_ids=self._tensor(positions)[None],
                use_cache=False,
                logits_to_keep=self._tensor(keep),
            )
        finally:
            self.attention.layout = None
        return list(output.logits[0].float().cpu())

    def _span(self, rows: Rows, *, first: int) -> Span:
        numbers = slot_numbers(rows.blocks, 0, rows.end)
        if rows.decode:
            return Span(first=first, rows=1, keys=self._run_or_numbers(numbers), mask=None)
        chunk = (rows.start // CHUNK_TOKENS + 1) * CHUNK_TOKENS
        numbers += [self._pool.zero_slot] * (chunk - len(numbers))
        count = len(rows.token_ids)
        seen = torch.arange(rows.start, rows.start + -(-count // ROWS_MIN) * ROWS_MIN)
        seen = seen.clamp(max=rows.end - 1)
        hidden = torch.arange(chunk)[None, :] > seen[:, None]
        mask = torch.zeros(hidden.shape, dtype=self._pool.dtype).masked_fill(hidden, -torch.inf)
        return Span(
            first=first,
            rows=count,
            keys=self._tensor(numbers),
            mask=mask.to(self._pool.device),
        )

    def _run_or_numbers(self, numbers: list[int]) -> Slots:
        """A slice where the slots follow each other, which spares copying them in every layer."""
        first, last = numbers[0], numbers[-1]
        if last - first == len(numbers) - 1 and numbers == list(range(first, last + 1)):
            return slice(first, last + 1)
        return self._tensor(numbers)

    def _tensor(self, numbers: list[int]) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=self._pool.device)
