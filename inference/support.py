"""Which models the embedded engine refuses, and why: those that it would compute wrongly.

Blocks of a prefix can be reused only where a token's keys and values depend on the tokens before
it and on nothing else, and where every layer's attention is plain causal attention. The config
tells most of it; a proof at start compares one short forward pass with transformers' own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from transformers import PretrainedConfig, PreTrainedModel

from inference.blocks import blocks_for
from inference.errors import UnsupportedModel
from inference.pool import KVShape
from inference.step import ModelStep, Rows

FULL_ATTENTION = "full_attention"
WINDOWED = ("sliding_attention", "chunked_attention")
ROPE_REFUSED = ("dynamic", "longrope")
PROOF_TOKENS = 40

_OTHER_INPUTS = ("vision_config", "audio_config", "speech_config", "text_config", "thinker_config")
_RECURRENT = (
    "state_size",
    "ssm_state_size",
    "ssm_cfg",
    "mamba_d_state",
    "mamba_n_heads",
    "conv_L_cache",
    "lru_width",
    "linear_num_value_heads",
    "attention_hidden_size",
)
"""Config attributes that only models with a running state have."""


def check_supported(config: PretrainedConfig, *, context_tokens: int = 0) -> None:
    """Raises ``UnsupportedModel`` with every reason, when there is one.

    Args:
        config: The model's.
        context_tokens: The longest prompt plus answer that will be served; 0 while it is not known
            leaves windows unjudged.
    """
    reasons = list(_reasons(config, context_tokens))
    if reasons:
        kind = getattr(config, "model_type", "this model")
        raise UnsupportedModel(f"{kind} cannot be served here: {'; '.join(reasons)}")


def _reasons(config: PretrainedConfig, context_tokens: int) -> Iterator[str]:
    yield from _kind_reasons(config)
    yield from _layer_reasons(config, context_tokens)
    if _set(config, "attn_logit_softcapping") or _set(config, "attn_logit_softcap"):
        yield "its attention scores are capped (softcap)"
    if config.model_type == "gpt_oss" or any("sink" in name for name in _truthy(config)):
        yield "it has attention sinks"
    if _set(config, "kv_lora_rank"):
        yield "it keeps compressed keys and values (MLA)"
    yield from (
        f"its rope type {kind!r} depends on the length of the request"
        for kind in sorted(set(_rope_types(config)))
        if kind in ROPE_REFUSED
    )


def _kind_reasons(config: PretrainedConfig) -> Iterator[str]:
    if getattr(config, "is_encoder_decoder", False):
        yield "it is an encoder-decoder model"
        return
    if any(_set(config, name) for name in _OTHER_INPUTS):
        yield "it is a multimodal model"
    architectures = getattr(config, "architectures", None) or ()
    if architectures and not any(
        name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures
    ):
        yield f"it is an encoder or has no language head ({architectures[0]})"


def _layer_reasons(config: PretrainedConfig, context_tokens: int) -> Iterator[str]:
    layers = getattr(config, "layer_types", None) or ()
    unknown = sorted(set(layers) - {FULL_ATTENTION, *WINDOWED})
    if unknown:
        yield f"it has recurrent or unknown layers ({', '.join(unknown)})"
    elif any(_set(config, name) for name in _RECURRENT):
        yield "it has recurrent layers"
    windowed = any(kind in WINDOWED for kind in layers) if layers else True
    window = getattr(config, "sliding_window", None) or getattr(
        config, "attention_chunk_size", None
    )
    if windowed and window is not None and window < context_tokens:
        yield f"its attention window ({window} tokens) is shorter than the context served"


def _rope_types(config: PretrainedConfig) -> Iterator[str]:
    for name in ("rope_parameters", "rope_scaling"):
        value = getattr(config, name, None)
        if isinstance(value, Mapping):
            for each in (value, *value.values()):
                if isinstance(each, Mapping):
                    yield str(each.get("rope_type", each.get("type", "default")))


def _set(config: PretrainedConfig, name: str) -> bool:
    return getattr(config, name, None) not in (None, 0, False)


def _truthy(config: PretrainedConfig) -> list[str]:
    return [name for name, value in config.to_dict().items() if value]


def context_of(config: PretrainedConfig) -> int:
    """The longest prompt plus answer that the model was made for."""
    context = getattr(config, "max_position_embeddings", None)
    if not context:
        raise UnsupportedModel(f"{config.model_type} does not say how long its context is")
    return int(context)


def kv_shape_of(config: PretrainedConfig) -> KVShape:
    """What the pool must hold for this model.

    Raises:
        UnsupportedModel: Its config does not say it, as it has no such layers.
    """
    heads = _number(config, "num_attention_heads")
    return KVShape(
        layers=_number(config, "num_hidden_layers"),
        kv_heads=_number(config, "num_key_value_heads", heads),
        head_dim=_number(config, "head_dim", 0) or _number(config, "hidden_size") // heads,
    )


def _number(config: PretrainedConfig, name: str, default: int | None = None) -> int:
    """A count that the config tells; raises ``UnsupportedModel`` where it tells none."""
    value = getattr(config, name, None) or default
    if not isinstance(value, int):
        raise UnsupportedModel(
            f"{config.model_type} cannot be served here: it does not have one {name} for all layers"
        )
    return value


def proof_prompt(config: PretrainedConfig) -> list[int]:
    """Token ids for the proof; any will do."""
    return [(37 * index + 11) % config.vocab_size for index in range(PROOF_TOKENS)]


@torch.inference_mode()
def reference_logits(model: PreTrainedModel) -> torch.Tensor:
    """The proof prompt's last logits by the model's own attention, before ours replaces it."""
    prompt = torch.tensor([proof_prompt(model.config)], device=model.device)
    logits: torch.Tensor = model(input_ids=prompt, use_cache=False).logits
    return logits[0, -1].float().cpu()


def prove(model: PreTrainedModel, step: ModelStep, expected: torch.Tensor) -> None:
    """Computes the proof prompt in parts over the pool, at last twice in one batch, and compares.

    Raises:
        UnsupportedModel: A layer did not come through our attention, or the result differs.
    """
    prompt = proof_prompt(model.config)
    blocks = range(blocks_for(len(prompt)))
    layers = list(range(model.config.num_hidden_layers))
    for start, end in ((0, 21), (21, len(prompt) - 1), (len(prompt) - 1, len(prompt))):
        rows = Rows(
            token_ids=prompt[start:end],
            start=start,
            blocks=blocks,
            decode=end - start == 1,
            logits=True,
        )
        step.run([rows])
        if sorted(step.attention.layers_seen) != layers:
            raise UnsupportedModel(
                f"{model.config.model_type} cannot be served here: "
                "not every layer has one attention that can be replaced"
            )
    given = _twice_in_one_batch(step, prompt)
    scale = float(expected.abs().max()) + 1e-6
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.1
    difference = max(float((each - expected).abs().max()) for each in given) / scale
    if not difference <= tolerance:
        raise UnsupportedModel(
            f"{model.config.model_type} cannot be served here: "
            f"paged attention gives other results ({difference:.2g} of the largest logit)"
        )


def _twice_in_one_batch(step: ModelStep, prompt: list[int]) -> list[torch.Tensor]:
    """The prompt's last logits for two requests that are decoded together, as most are."""
    size, last = blocks_for(len(prompt)), len(prompt) - 1
    tables = [range(size), range(size, 2 * size)]
    for table in tables:
        head = Rows(token_ids=prompt[:last], start=0, blocks=table, decode=False, logits=False)
        step.run([head])
    tails = [
        Rows(token_ids=prompt[last:], start=last, blocks=table, decode=True, logits=True)
        for table in tables
    ]
    return [logits for logits in step.run(tails) if logits is not None]
