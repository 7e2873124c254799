"""Models that the engine would compute wrongly are refused, and the reason is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from inference.embedded import EngineSettings, load_engine
from inference.errors import UnsupportedModel
from inference.support import check_supported

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def config(kind: str, **changes: Any) -> Any:
    return getattr(transformers, kind)(**(SMALL | changes))


def rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, "factor": 2.0} | more}


REFUSED = [
    (lambda: config("MistralConfig", sliding_window=64), "window"),
    (lambda: config("Gemma2Config", head_dim=8, sliding_window=64), "window"),
    (lambda: config("Gemma2Config", head_dim=8, sliding_window=4096), "softcap"),
    (lambda: config("Gemma3TextConfig", head_dim=8, sliding_window=64), "window"),
    (lambda: config("GptOssConfig", head_dim=8, num_local_experts=2), "sinks"),
    (lambda: config("DeepseekV3Config", num_key_value_heads=4), "MLA"),
    (lambda: transformers.MambaConfig(vocab_size=64, hidden_size=32), "recurrent"),
    (lambda: transformers.RwkvConfig(vocab_size=64, hidden_size=32), "recurrent"),
    (lambda: config("Qwen3NextConfig", head_dim=8), "recurrent"),
    (lambda: config("Lfm2Config"), "recurrent"),
    (lambda: config("LlamaConfig", **rope("dynamic")), "dynamic"),
    (
        lambda: config(
            "LlamaConfig",
            **rope("longrope", short_factor=[1.0] * 4, long_factor=[2.0] * 4),
        ),
        "longrope",
    ),
    (lambda: transformers.T5Config(vocab_size=64), "encoder-decoder"),
    (lambda: transformers.BertConfig(architectures=["BertForMaskedLM"]), "encoder"),
    (lambda: transformers.LlavaConfig(), "multimodal"),
    (lambda: transformers.Qwen2VLConfig(), "multimodal"),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_model_is_refused_with_its_reason(number: int) -> None:
    make, reason = REFUSED[number]
    with pytest.raises(UnsupportedModel, match=reason):
        check_supported(make(), context_tokens=512)


SERVED = [
    lambda: config("LlamaConfig"),
    lambda: config("LlamaConfig", **rope("linear")),
    lambda: config("MistralConfig", sliding_window=None),
    lambda: config("MistralConfig", sliding_window=512),
    lambda: config("Qwen2Config", sliding_window=64, use_sliding_window=False),
    lambda: config("Qwen3Config", head_dim=8),
]


@pytest.mark.parametrize("number", range(len(SERVED)))
def test_plain_model_is_not_refused(number: int) -> None:
    check_supported(SERVED[number](), context_tokens=512)


def saved(folder: Path, model: Any, save_tokenizer: Callable[[Path], None]) -> EngineSettings:
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return EngineSettings(
        model=str(folder), device="cpu", threads=1, kv_cache_bytes=1 << 20, dtype="float32"
    )


@pytest.mark.parametrize("kind", ["Qwen2", "Qwen3", "Mistral", "Phi3", "Olmo2", "GPT2", "Mixtral"])
def test_other_architectures_pass_the_proof_at_start(
    kind: str, tmp_path: Path, save_tokenizer: Callable[[Path], None]
) -> None:
    """Their own attention and ours give the same numbers, so the engine serves them."""
    changes = {"vocab_size": 258, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1}
    if kind in {"Mistral", "Phi3", "Mixtral"}:
        changes["sliding_window"] = None
    if kind == "Mixtral":
        changes["num_local_experts"] = 2
    if kind == "GPT2":
        made = transformers.GPT2Config(
            vocab_size=258, n_embd=32, n_layer=2, n_head=4, n_positions=512
        )
    else:
        made = config(f"{kind}Config", **changes)
    name = "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM"
    model = getattr(transformers, name)(made)
    core = load_engine(saved(tmp_path, model, save_tokenizer))
    assert core.capabilities().models[0].context_tokens <= 512
    core.close()


def test_model_whose_attention_cannot_be_replaced_fails_the_proof(
    tmp_path: Path, save_tokenizer: Callable[[Path], None]
) -> None:
    made = transformers.BloomConfig(vocab_size=258, hidden_size=32, n_layer=2, n_head=4)
    made.max_position_embeddings = 512
    settings = saved(tmp_path, transformers.BloomForCausalLM(made), save_tokenizer)
    with pytest.raises(UnsupportedModel, match="attention"):
        load_engine(settings)


def test_recurrent_model_is_refused_before_its_weights_are_read(
    tmp_path: Path, save_tokenizer: Callable[[Path], None]
) -> None:
    made = transformers.MambaConfig(vocab_size=258, hidden_size=32, num_hidden_layers=2)
    settings = saved(tmp_path, transformers.MambaForCausalLM(made), save_tokenizer)
    with pytest.raises(UnsupportedModel, match="recurrent"):
        load_engine(settings)


def test_model_without_attention_heads_is_refused(
    tmp_path: Path, save_tokenizer: Callable[[Path], None]
) -> None:
    kernels = {
        "chunkwise_kernel": "chunkwise--native_autograd",
        "sequence_kernel": "native_sequence__native",
        "step_kernel": "native",
    }
    made = transformers.xLSTMConfig(
        vocab_size=258, hidden_size=64, num_heads=4, num_hidden_layers=2, **kernels
    )
    settings = saved(tmp_path, transformers.xLSTMForCausalLM(made), save_tokenizer)
    with pytest.raises(UnsupportedModel, match="num_attention_heads"):
        load_engine(settings)
