"""Loads a model that was found: weights from safetensors only, and no code that comes with it."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from inference.errors import ModelMissing
from inference.sampler import SamplingDefaults
from inference.store.convert import no_progress_bars
from inference.store.files import ModelFiles

SMALL_MODEL_SAMPLING = SamplingDefaults(temperature=0.2, top_p=0.9)
"""What the small model's card advises; the file itself has no generation config."""


def load_config(files: ModelFiles) -> PretrainedConfig:
    """The model's config; raises ``ModelMissing`` when there is none that transformers knows."""
    try:
        return AutoConfig.from_pretrained(files.folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelMissing(f"{files.folder} is no model folder: {str(error)[:200]}") from error


def load_weights(files: ModelFiles, *, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """The model, ready to compute on ``device``."""
    try:
        with no_progress_bars():
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
                files.folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=dtype,
            )
    except (OSError, ValueError, ImportError) as error:
        raise ModelMissing(f"{files.folder}: {str(error)[:200]}") from error
    return model.to(device).eval()


def quantisation_of(files: ModelFiles, config: PretrainedConfig) -> str:
    """How the weights are stored, from the file converted or the config; ``none`` for plain."""
    if files.quantisation != "none":
        return files.quantisation
    method = (getattr(config, "quantization_config", None) or {}).get("quant_method", "none")
    return str(method)


def sampling_defaults(files: ModelFiles, model: PreTrainedModel) -> SamplingDefaults:
    """What the generation config says; one that does not sample means greedy."""
    if files.is_small:
        return SMALL_MODEL_SAMPLING
    config = model.generation_config
    if config is None or not config.do_sample:
        return SamplingDefaults()
    return SamplingDefaults(
        temperature=1.0 if config.temperature is None else float(config.temperature),
        top_p=1.0 if config.top_p is None else float(config.top_p),
        top_k=int(config.top_k or 0),
        min_p=float(getattr(config, "min_p", None) or 0.0),
    )


def end_tokens(model: PreTrainedModel, tokenizer_end: int | None) -> frozenset[int]:
    """The tokens that end an answer."""
    given = model.generation_config.eos_token_id if model.generation_config else None
    listed = [given] if isinstance(given, int) else list(given or ())
    return frozenset(token for token in (*listed, tokenizer_end) if token is not None)
