"""Loads the embedded engine: finds the model, refuses what it cannot serve, proves the rest.

Steps of :func:`load_engine`: find (and convert) the files; choose device, dtype and threads; size
the pool; refuse by config; load weights and tokenizer; compare a short forward pass with
transformers' own; put the scheduler on top; compute one made-up request to know the rates.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PretrainedConfig, PreTrainedModel

from inference.blocks import KEY_BYTES
from inference.errors import UnsupportedModel
from inference.hardware import (
    choose_device,
    choose_dtype,
    choose_threads,
    dtype_name,
    free_bytes,
)
from inference.linear import narrow_linears
from inference.model import (
    end_tokens,
    load_config,
    load_weights,
    quantisation_of,
    sampling_defaults,
)
from inference.pool import BlockPool
from inference.request import (
    BLOCK_TOKENS,
    EngineRequest,
    OutputIdentity,
    PrefixIdentity,
    Sampling,
    ServedModel,
)
from inference.scheduler import NOBODY, EmbeddedCore, ModelParts, Posture
from inference.step import CHUNK_TOKENS, ModelStep
from inference.store.convert import Progress
from inference.store.files import ModelFiles, default_cache_dir, find_model
from inference.support import check_supported, context_of, kv_shape_of, prove, reference_logits
from inference.tokenizer import PromptTokenizer

BLOCKS_MIN = CHUNK_TOKENS // BLOCK_TOKENS
"""Blocks of the smallest cache: a context shorter than one prefill chunk answers nothing useful."""

MIB = 1 << 20

CPU_CACHE_BYTES = 1 << 30

GPU_MEMORY_FRACTION = 0.85
"""Of the memory that is free beside the weights; the rest is for what a step computes."""

WARM_UP_TOKENS = CHUNK_TOKENS
WARM_UP_ANSWER = 4
"""One whole chunk and a few tokens: under a second for a small model on one thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What the owner of a host may choose.

    ``model`` is None for the small packaged one, a folder, a GGUF file or a hub id; ``device`` is
    ``auto``, ``cuda`` or ``cpu``; ``dtype`` ``auto`` or a name; ``threads`` 0 for physical cores
    minus one; ``cache_dir`` None for the platform's; ``prefix_cache`` False makes every run cold.
    ``slots`` is how many requests are computed at once: more answer more in all and each more
    slowly. ``kv_cache_bytes`` None takes :data:`GPU_MEMORY_FRACTION` of what is free on a GPU once
    the model is there, and :data:`CPU_CACHE_BYTES` on a CPU. ``reserved_fraction`` of the cache, 0
    to 1, is divided among the tenants that use it; the rest goes to whoever asks first. ``strict``
    divides all of it, and the slots, for good, and lets no tenant see another's hits.
    """

    model: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    threads: int = 0
    kv_cache_bytes: int | None = None
    cache_dir: Path | None = None
    reuse_decoded: bool = True
    queue_max: int = 64
    prefix_cache: bool = True
    slots: int = 8
    reserved_fraction: float = 0.5
    strict: bool = False


def no_progress(_what: str, _done: float) -> None:
    """For callers who do not show any."""


def load_engine(
    settings: EngineSettings, progress: Progress = no_progress, *, files: ModelFiles | None = None
) -> EmbeddedCore:
    """The engine, ready to be stepped. Sets torch's thread count for the whole process.

    Args:
        settings: What the host's owner chose.
        progress: Told what takes long.
        files: The model's, where they have been found already.

    Raises:
        ModelMissing: No model; the message names what to run.
        UnsupportedModel: The model, device, dtype or cache size cannot work here, and why.
    """
    began_s = time.monotonic()
    device = choose_device(settings.device)
    files = files or find_model(settings.model, settings.cache_dir or default_cache_dir(), progress)
    config = load_config(files)
    check_supported(config)
    dtype = choose_dtype(settings.dtype, device.device, config.dtype)
    threads = choose_threads(settings.threads)
    torch.set_num_threads(threads)
    cache_bytes = settings.kv_cache_bytes
    if cache_bytes is None and device.device.type == "cpu":
        cache_bytes = CPU_CACHE_BYTES
    if cache_bytes is not None:
        # What cannot be served is refused before its weights are read.
        check_supported(config, context_tokens=_context(config, cache_bytes, dtype))
    model = load_weights(files, dtype=dtype, device=device.device)
    if cache_bytes is None:
        cache_bytes = int(GPU_MEMORY_FRACTION * free_bytes(device.device))
    blocks = _blocks_of(config, cache_bytes, dtype)
    context = _context(config, cache_bytes, dtype)
    check_supported(config, context_tokens=context)
    tokenizer = PromptTokenizer(files.folder, context_tokens=context, source_digest=files.tokenizer)
    step = _proven_step(model, blocks=blocks, context_tokens=context, uniform=settings.strict)
    posture = Posture(
        model=files.name,
        folder=files.folder,
        device=str(device.device),
        device_why=device.why,
        dtype=dtype_name(dtype),
        threads=threads,
        kv_cache_bytes=blocks * kv_shape_of(config).block_bytes(dtype),
        kv_blocks=blocks,
        context_tokens=context,
        slots=settings.slots,
        load_s=time.monotonic() - began_s,
    )
    parts = ModelParts(
        served=_served(files, config, tokenizer, posture),
        step=step,
        tokenizer=tokenizer,
        end_tokens=end_tokens(model, tokenizer.end_token),
        vocabulary=int(config.vocab_size),
        blocks=blocks,
        sampling=sampling_defaults(files, model),
        posture=posture,
    )
    core = EmbeddedCore(
        parts,
        reuse_decoded=settings.reuse_decoded,
        prefix_cache=settings.prefix_cache,
        queue_max=settings.queue_max,
        reserved_fraction=settings.reserved_fraction,
        strict=settings.strict,
        now_s=time.monotonic,
    )
    warm_up(core)
    return core


def warm_up(core: EmbeddedCore) -> None:
    """Computes one made-up request, so that the engine knows its rates before the first real one.

    A peer that could not tell its rates would be taken for as fast as any other. Nothing of it
    stays in the cache.
    """
    served = core.capabilities().models[0]
    tokens = min(WARM_UP_TOKENS, served.context_tokens // 2)
    request = EngineRequest(
        request_id="warm-up",
        namespace=NOBODY,
        chain_key=bytes(KEY_BYTES),
        model=served.name,
        token_ids=tuple(range(tokens)),
        sampling=Sampling(seed=0, temperature=0, max_tokens=WARM_UP_ANSWER),
    )
    core.add(request)
    while core.has_work():
        core.step()
    core.reset()
    core.cache_events()


def _context(config: PretrainedConfig, kv_cache_bytes: int, dtype: torch.dtype) -> int:
    """The longest prompt plus answer that both the model and the cache can hold."""
    blocks = _blocks_of(config, kv_cache_bytes, dtype)
    return min(context_of(config), blocks * BLOCK_TOKENS)


def _blocks_of(config: PretrainedConfig, kv_cache_bytes: int, dtype: torch.dtype) -> int:
    """How many blocks fit; raises ``UnsupportedModel`` when they are too few to serve anything."""
    block_bytes = kv_shape_of(config).block_bytes(dtype)
    blocks = kv_cache_bytes // block_bytes
    if blocks < BLOCKS_MIN:
        least = -(-BLOCKS_MIN * block_bytes // MIB)
        raise UnsupportedModel(
            f"a cache of {kv_cache_bytes // MIB} MiB is too small for this model: "
            f"use --kv-cache {least}MiB or more"
        )
    return blocks


def _proven_step(
    model: PreTrainedModel, *, blocks: int, context_tokens: int, uniform: bool
) -> ModelStep:
    expected = reference_logits(model)
    shape, dtype = kv_shape_of(model.config), model.dtype
    try:
        pool = BlockPool(shape, blocks=blocks, dtype=dtype, device=model.device, uniform=uniform)
    except (RuntimeError, MemoryError) as error:
        raise UnsupportedModel(
            f"a cache of {blocks * shape.block_bytes(dtype)} bytes does not fit into the memory of "
            f"{model.device} (--kv-cache)"
        ) from error
    narrow_linears(model)
    step = ModelStep(model, pool, context_tokens=context_tokens, uniform=uniform)
    prove(model, step, expected)
    return step


def _served(
    files: ModelFiles, config: PretrainedConfig, tokenizer: PromptTokenizer, posture: Posture
) -> ServedModel:
    return ServedModel(
        name=files.name,
        context_tokens=posture.context_tokens,
        prefix=PrefixIdentity(
            served_model=files.name,
            tokenizer=tokenizer.digest,
            template=tokenizer.template_digest,
        ),
        output=OutputIdentity(
            weights=files.weights,
            quantisation=quantisation_of(files, config),
            dtype=posture.dtype,
        ),
    )
