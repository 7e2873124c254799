"""Paged attention does plain causal attention and refuses whatever else a model asks for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from inference.attention import Layout, PagedAttention, Together
from inference.errors import EngineFailed, UnsupportedModel
from inference.pool import BlockPool, KVShape, Slots, leading_slots, numbered_slots, slot_numbers
from inference.step import chunk_end
from tests.inference.bench import Bench

MODULE = SimpleNamespace(layer_idx=0, is_causal=True)


@pytest.fixture
def attention() -> PagedAttention:
    pool = BlockPool(
        KVShape(layers=1, kv_heads=2, head_dim=8),
        blocks=4,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    made = PagedAttention(pool, context_tokens=64)
    made.layout = Layout(
        slots=torch.tensor([0]), count=1, singles=(slice(0, 1),), together=None, spans=()
    )
    return made


def call(
    attention: PagedAttention,
    module: Any = MODULE,
    mask: torch.Tensor | None = None,
    kv_heads: int = 2,
    **keywords: Any,
) -> None:
    query = torch.randn(1, 4, 1, 8)
    keys = torch.randn(1, kv_heads, 1, 8)
    attention.attend(module, query, keys, keys, mask, scaling=None, **keywords)


@pytest.mark.parametrize(
    "keywords",
    [
        {"softcap": 30.0},
        {"s_aux": torch.zeros(4)},
        {"head_mask": torch.ones(4)},
        {"position_bias": torch.zeros(1)},
        {"sliding_window": 32},
        {"dropout": 0.1},
        {"is_causal": False},
        {"output_attentions": True},
        {"something_new": 1},
        {"something_new": False},
        {"cu_seq_lens_q": torch.zeros(2)},
    ],
    ids=lambda keywords: next(iter(keywords)),
)
def test_keyword_that_is_not_implemented_raises(
    attention: PagedAttention, keywords: dict[str, Any]
) -> None:
    with pytest.raises(UnsupportedModel, match=next(iter(keywords))):
        call(attention, **keywords)


def test_keywords_that_ask_for_nothing_pass(attention: PagedAttention) -> None:
    call(attention, softcap=None, s_aux=None, dropout=0.0, is_causal=True, use_cache=False)
    call(attention, sliding_window=64, position_ids=torch.zeros(1, 1))


def test_mask_of_the_models_own_raises(attention: PagedAttention) -> None:
    with pytest.raises(UnsupportedModel, match="mask"):
        call(attention, mask=torch.zeros(1, 1, 1, 1))


def test_attention_that_is_not_causal_raises(attention: PagedAttention) -> None:
    with pytest.raises(UnsupportedModel, match="causal"):
        call(attention, module=SimpleNamespace(layer_idx=0, is_causal=False))


def test_layers_of_another_shape_raise(attention: PagedAttention) -> None:
    with pytest.raises(UnsupportedModel, match="shapes"):
        call(attention, kv_heads=1)


def test_call_outside_of_a_step_fails(attention: PagedAttention) -> None:
    attention.layout = None
    with pytest.raises(EngineFailed):
        call(attention)


def test_two_requests_in_one_step_see_only_their_own_blocks(tiny: Bench) -> None:
    """The step takes a list: together and alone give the same logits."""
    from inference.step import Rows

    step = tiny.core._parts.step

    def rows(seed: int, blocks: list[int]) -> Rows:
        ids = [(seed * n) % 250 + 2 for n in range(40)]
        return Rows(token_ids=ids, start=0, blocks=blocks, decode=False, logits=True)

    (alone_a,) = step.run([rows(3, [0, 1, 2])])
    (alone_b,) = step.run([rows(7, [5, 4, 3])])
    both = step.run([rows(3, [8, 6, 9]), rows(7, [7, 11, 10])])
    assert torch.allclose(alone_a, both[0], atol=1e-5)
    assert torch.allclose(alone_b, both[1], atol=1e-5)
    decode = [
        Rows(token_ids=[9], start=40, blocks=[8, 6, 9], decode=True, logits=True),
        Rows(token_ids=[9], start=40, blocks=[7, 11, 10], decode=True, logits=True),
    ]
    together = step.run(decode)
    for each, given in zip(decode, together, strict=True):
        assert torch.allclose(step.run([each])[0], given, atol=1e-5)


def test_prefill_chunks_end_at_absolute_multiples() -> None:
    assert [chunk_end(start, 600) for start in (0, 16, 255, 256, 500, 512)] == [
        256,
        256,
        256,
        512,
        512,
        600,
    ]


def test_slots_follow_the_block_table() -> None:
    assert slot_numbers([3, 1], 14, 18) == [62, 63, 16, 17]
    assert numbered_slots([3, 1, 7], 18).tolist() == slot_numbers([3, 1], 0, 18)
    assert leading_slots([3, 4, 9], 18) == slice(48, 66)
    assert leading_slots([3, 4, 9], 32) == slice(48, 80)
    apart = leading_slots([3, 1], 17)
    assert isinstance(apart, torch.Tensor)
    assert apart.tolist() == [*range(48, 64), 16]


def decoded(attention: PagedAttention, singles: tuple[Slots, ...], **layout: Any) -> torch.Tensor:
    torch.manual_seed(0)
    count = len(singles)
    attention.layout = Layout(
        slots=torch.arange(60, 60 + count),
        count=count,
        singles=singles,
        **{"together": None, "spans": ()} | layout,
    )
    query, keys = torch.randn(1, 4, count, 8), torch.randn(1, 2, count, 8)
    out, _ = attention.attend(MODULE, query, keys, keys, None, scaling=None)
    return out[0]


def test_decode_rows_equal_plain_attention_in_place_gathered_and_together(
    attention: PagedAttention,
) -> None:
    torch.manual_seed(1)
    stored = torch.randn(50, 2, 8)
    attention._pool.write(0, torch.arange(50), stored, stored)
    spans = [(0, 20), (17, 50)]
    in_place = decoded(attention, tuple(slice(*span) for span in spans))
    gathered = decoded(attention, tuple(torch.arange(*span) for span in spans))
    longest = 40
    keys = torch.full((2, longest), attention._pool.zero_slot)
    mask = torch.full((2, 1, 1, longest), -torch.inf)
    for at, (first, end) in enumerate(spans):
        keys[at, : end - first] = torch.arange(first, end)
        mask[at, :, :, : end - first] = 0
    together = Together(keys=keys.flatten(), mask=mask)
    padded = decoded(attention, tuple(slice(*span) for span in spans), together=together)
    torch.manual_seed(0)
    query = torch.randn(1, 4, 2, 8)
    for at, (first, end) in enumerate(spans):
        seen = stored[first:end].transpose(0, 1)[None]
        expected = scaled_dot_product_attention(
            query[:, :, at : at + 1], seen, seen, enable_gqa=True
        )[0, :, 0]
        for given in (in_place, gathered, padded):
            assert torch.allclose(given[at], expected, atol=1e-6)
