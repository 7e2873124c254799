"""Attention over the block pool, given to transformers by its public ``AttentionInterface``.

The model's forward pass stays transformers' own; only the attention of each layer comes here, with
rotated queries and keys of all rows of a step. For a name that it has no mask function for,
transformers builds no mask, on purpose for backends like this one.

What makes a warm prefill equal a cold one bit for bit (measured on CPU kernels): a row's result
does not depend on how many rows are computed with it as long as there are at least 4, nor on which
keys a mask hides as long as their number is the same. So rows are padded to 16, and keys to the
end of their absolute chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from inference.errors import EngineFailed, UnsupportedModel
from inference.pool import BlockPool, Slots

ROWS_MIN = 16
"""Rows are padded to a multiple of this, see above; 4 would do on the kernels that we measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The rows of one request in a step: ``rows`` from ``first`` on, which see the slots ``keys``.

    ``mask`` (``[padded rows, keys]``, True: sees) is None for a single row that sees all of them.
    """

    first: int
    rows: int
    keys: Slots
    mask: torch.Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where a step's rows are written, and what each request's rows see."""

    slots: torch.Tensor
    spans: tuple[Span, ...]


class PagedAttention:
    """The attention of one model over one pool. ``layout`` is set before each forward pass."""

    def __init__(self, pool: BlockPool, *, context_tokens: int) -> None:
        self._pool = pool
        self._context_tokens = context_tokens
        self.layout: Layout | None = None
        self.layers_seen: list[int] = []

    def attach(self, model: PreTrainedModel) -> None:
        """Makes ``model`` use this attention from now on."""
        name = f"rhizome_paged_{id(self):x}"
        AttentionInterface.register(name, self.attend)
        model.set_attn_implementation(name)

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        *,
        scaling: float | None = None,
        **keywords: Any,  # whatever this model's code passes: judged one by one
    ) -> tuple[torch.Tensor, None]:
        """One layer, all rows: queries ``[1, heads, rows, dim]`` to ``[1, rows, heads, dim]``.

        Raises:
            UnsupportedModel: The model asks for something that is not implemented here.
        """
        self._check(module, attention_mask, keywords)
        layout = self.layout
        if layout is None or query.shape[0] != 1:
            raise EngineFailed("attention was called outside of a step")
        shape = self._pool.shape
        if key.shape[1::2] != (shape.kv_heads, shape.head_dim) or value.shape != key.shape:
            raise UnsupportedModel("its layers have keys and values of different shapes")
        layer = int(module.layer_idx)  # type: ignore[arg-type]  # an int on every attention module
        self.layers_seen.append(layer)
        self._pool.write(layer, layout.slots, key[0].transpose(0, 1), value[0].transpose(0, 1))
        out = torch.zeros_like(query[0].transpose(0, 1), memory_format=torch.contiguous_format)
        for span in layout.spans:
            rows = query[0, :, span.first : span.first + span.rows]
            keys, values = self._pool.read(layer, span.keys)
            keys, values = keys.transpose(0, 1)[None], values.transpose(0, 1)[None]
            if span.mask is None:
                attended = _attend_one(rows, keys, values, scaling)
            else:
                attended = _attend_masked(rows, keys, values, span.mask, scaling)
            out[span.first : span.first + span.rows] = attended
        return out[None], None

    def _check(
        self,
        module: torch.nn.Module,
        attention_mask: torch.Tensor | None,
        keywords: dict[str, Any],  # as above
    ) -> None:
        if attention_mask is not None:
            raise UnsupportedModel("it passes an attention mask of its own")
        if getattr(module, "is_causal", True) is False:
            raise UnsupportedModel("its attention is not causal")
        for name, value in keywords.items():
            if value is None or (name in HARMLESS and HARMLESS[name](value)):
                continue
            if name == "sliding_window" and value >= self._context_tokens:
                continue
            raise UnsupportedModel(f"its attention needs {name!r}, which is not implemented")


HARMLESS: dict[str, Callable[[Any], bool]] = {
    "dropout": lambda value: value == 0,
    "is_causal": lambda value: value is True,
    "use_cache": lambda value: value is False,
    "output_attentions": lambda value: value is False,
    "output_hidden_states": lambda value: value is False,
    "output_router_logits": lambda value: value is False,
    "return_dict": lambda value: value is True,
    "position_ids": lambda value: isinstance(value, torch.Tensor),  # as given by the step
}
"""Keywords that models pass along and the values for which they ask for nothing more."""


def _attend_one(
    rows: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """A single row that sees all keys. Heads that share keys become rows, so nothing is copied."""
    heads, _, dim = rows.shape
    grouped = rows.reshape(1, keys.shape[1], heads // keys.shape[1], dim)
    out = scaled_dot_product_attention(grouped, keys, values, scale=scaling)
    return out.reshape(1, heads, dim)


def _attend_masked(
    rows: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    scaling: float | None,
) -> torch.Tensor:
    heads, count, _ = rows.shape
    padded = pad(rows, (0, 0, 0, mask.shape[0] - count))[None]
    if keys.is_cuda:
        # With a mask and shared heads CUDA would fall back to its slowest kernel.
        keys = keys.repeat_interleave(heads // keys.shape[1], dim=1)
        values = values.repeat_interleave(heads // values.shape[1], dim=1)
    out = scaled_dot_product_attention(
        padded, keys, values, attn_mask=mask, scale=scaling, enable_gqa=not keys.is_cuda
    )
    return out[0, :, :count].transpose(0, 1)
