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

import weakref
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

LENGTHS_ALIGNED = 64
"""Keys of rows that are computed together are padded to a multiple of this: CUDA's fast kernels
want masks whose rows begin at multiples of 16 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """Keys that rows are compared with for the time that it takes; nothing comes of it."""

    keys: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The prompt rows of one request: ``rows`` from ``first`` on, which see the slots ``keys``.

    ``mask`` is ``[padded rows, keys]``, -inf where a row does not see a key.
    """

    first: int
    rows: int
    keys: torch.Tensor
    mask: torch.Tensor
    idle: Idle | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """All decode rows as one padded batch, for devices where a call costs more than a copy.

    ``keys`` are the slots ``[requests * longest]``, ``mask`` is ``[requests, 1, 1, longest]``.
    """

    keys: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where a step's rows are written, and what they see.

    The first ``count`` rows are decode rows, one a request: each sees its slots in ``singles``, or
    they are computed ``together``. The rows of ``spans`` follow, then padding.
    """

    slots: torch.Tensor
    count: int
    singles: tuple[Slots, ...]
    together: Together | None
    spans: tuple[Span, ...]


class PagedAttention:
    """The attention of one model over one pool.

    ``layout`` is that of the forward pass under way, ``layers_seen`` the layers that came here in
    the last one.
    """

    def __init__(self, pool: BlockPool, *, context_tokens: int) -> None:
        self._pool = pool
        self._context_tokens = context_tokens
        self.layout: Layout | None = None
        self.layers_seen: list[int] = []

    def attach(self, model: PreTrainedModel) -> None:
        """Makes ``model`` use this attention from now on."""
        name = f"rhizome_paged_{id(self):x}"
        # Transformers keeps what is registered for ever: not the pool, therefore.
        mine = weakref.WeakMethod(self.attend)

        def attend(*given: Any, **keywords: Any) -> tuple[torch.Tensor, None]:  # its own, as below
            method = mine()
            if method is None:
                raise EngineFailed("attention was called after its engine was closed")
            return method(*given, **keywords)

        AttentionInterface.register(name, attend)
        model.set_attn_implementation(name)

    def begin(self, layout: Layout) -> None:
        """A forward pass begins."""
        self.layout = layout
        self.layers_seen.clear()

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
        return self._attended(layer, layout, query[0].transpose(0, 1), scaling)[None], None

    def _attended(
        self, layer: int, layout: Layout, rows: torch.Tensor, scaling: float | None
    ) -> torch.Tensor:
        """The result of each row, ``[rows, heads, dim]`` as given."""
        parts: list[torch.Tensor] = []
        count, heads, dim = rows.shape
        kv_heads, single = self._pool.shape.kv_heads, layout.count
        if single:
            # Heads that share keys become rows, so nothing is copied for them.
            grouped = rows[:single].reshape(single, kv_heads, heads // kv_heads, dim)
            if layout.together is not None:
                keys, values = self._pool.read(layer, layout.together.keys)
                out = _attend_together(grouped, keys, values, layout.together.mask, scaling)
                parts.append(out.reshape(single, heads, dim))
            else:
                for at, seen in enumerate(layout.singles):
                    keys, values = self._pool.read(layer, seen)
                    out = scaled_dot_product_attention(
                        grouped[at : at + 1], keys, values, scale=scaling
                    )
                    parts.append(out.reshape(1, heads, dim))
        done = single
        for span in layout.spans:
            keys, values = self._pool.read(layer, span.keys)
            own = rows[span.first : span.first + span.rows].transpose(0, 1)
            parts.append(_attend_masked(own, keys, values, span.mask, scaling))
            if span.idle is not None:
                keys, values = self._pool.read(layer, span.idle.keys)
                _attend_masked(own, keys, values, span.idle.mask, scaling)
            done = span.first + span.rows
        if done < count:
            parts.append(rows.new_zeros((count - done, heads, dim)))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

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


def _attend_together(
    grouped: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    scaling: float | None,
) -> torch.Tensor:
    """Single rows of many requests at once: ``[requests, kv_heads, heads / kv_heads, dim]``."""
    count, kv_heads, shared, dim = grouped.shape
    longest = mask.shape[-1]
    keys = keys.reshape(kv_heads, count, longest, dim).transpose(0, 1)
    values = values.reshape(kv_heads, count, longest, dim).transpose(0, 1)
    seen = mask.expand(count, kv_heads, shared, longest)
    return scaled_dot_product_attention(grouped, keys, values, attn_mask=seen, scale=scaling)


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
