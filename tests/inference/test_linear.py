"""Narrow linear layers give what plain ones give, and prefill does not notice them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from inference.linear import ROWS_MAX, NarrowLinear, narrow_linears


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 3, 8, ROWS_MAX, ROWS_MAX + 1, 40])
def test_it_equals_the_plain_layer(rows: int, bias: bool) -> None:
    torch.manual_seed(rows)
    plain = nn.Linear(48, 384, bias=bias)
    narrow = NarrowLinear(plain, 96)
    given = torch.randn(1, rows, 48)
    with torch.inference_mode():
        assert torch.allclose(narrow(given), plain(given), atol=1e-5)
        if rows > ROWS_MAX or rows == 1:
            assert torch.equal(narrow(given), plain(given))


def test_a_model_keeps_its_weights_and_its_numbers() -> None:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=384,
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).eval()
    ids = torch.arange(5, 13)[None]
    with torch.inference_mode():
        before = model(ids).logits
        parameters = {id(each) for each in model.parameters()}
        narrow_linears(model)
        assert {id(each) for each in model.parameters()} == parameters
        assert torch.allclose(model(ids).logits, before, atol=1e-5)
    assert isinstance(model.lm_head, NarrowLinear)
    # 48 columns for keys and values are no multiple of 96.
    kinds = {type(layer.self_attn.k_proj) for layer in model.model.layers}
    assert kinds == {nn.Linear}


def test_other_number_formats_are_left_alone() -> None:
    config = LlamaConfig(vocab_size=384, hidden_size=96, intermediate_size=192, num_hidden_layers=1)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    narrow_linears(model)
    assert type(model.lm_head) is nn.Linear
