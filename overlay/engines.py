"""Makes the engine that the settings ask for. Torch is imported only for the embedded one."""

from __future__ import annotations

from collections.abc import Callable

from inference.core import EngineCore
from inference.worker import EngineWorker
from overlay.config import EngineKind, PeerConfig

Progress = Callable[[str, float], None]
"""What is being done, and the share of it that is done (0 to 1)."""


def make_engine(config: PeerConfig, progress: Progress) -> EngineWorker:
    """The engine of one peer; loading a model takes seconds, converting one a minute.

    Raises:
        inference.errors.ModelMissing, UnsupportedModel: With what to do in the message.
    """
    if config.engine is EngineKind.NONE:
        from inference.none import no_engine

        return no_engine()
    return EngineWorker(make_core(config, progress), in_thread=computes(config))


def computes(config: PeerConfig) -> bool:
    """Whether the engine's steps take real time, and so need a thread."""
    return config.engine is EngineKind.EMBEDDED


def make_core(config: PeerConfig, progress: Progress) -> EngineCore:
    """What an engine other than none computes with; raises as :func:`make_engine`."""
    return embedded_core(config, progress) if computes(config) else toy_core(config)


def toy_core(config: PeerConfig) -> EngineCore:
    """The deterministic engine that computes nothing and takes time by a cost model."""
    from inference.toy import ToyConfig, ToyEngine

    toy = ToyConfig(
        slots=config.toy_slots,
        total_blocks=config.toy_cache_tokens // 16,
        context_tokens=config.toy_context_tokens,
        prefill_tokens_per_s=config.toy_prefill_tokens_per_s,
        decode_s_per_token=config.toy_decode_s,
        queue_max=config.queue_max,
        reuse_decoded=config.reuse_decoded,
    )
    return ToyEngine(toy)


def embedded_core(config: PeerConfig, progress: Progress) -> EngineCore:
    """The model on this host's processor or GPU."""
    from inference.files import default_cache_dir, find_model

    # Before torch, which takes seconds to import: a mistyped name is told at once.
    files = find_model(config.model, default_cache_dir(), progress)
    progress(f"loading {files.name}", 0.0)
    from inference.embedded import EngineSettings, load_engine

    settings = EngineSettings(
        model=config.model,
        device=config.device.value,
        dtype=config.dtype.value,
        threads=config.threads,
        kv_cache_bytes=config.kv_cache_bytes,
        reuse_decoded=config.reuse_decoded,
        queue_max=config.queue_max,
    )
    core = load_engine(settings, progress, files=files)
    progress(f"loading {files.name}", 1.0)
    return core
