"""Makes the engine that the settings ask for. Torch is imported only for the embedded one."""

from __future__ import annotations

from collections.abc import Callable

from inference.worker import EngineWorker
from overlay.config import EngineKind, PeerConfig

Progress = Callable[[str, float], None]
"""What is being done, and the share of it that is done (0 to 1)."""


def make_engine(config: PeerConfig, progress: Progress) -> EngineWorker:
    """The engine of one peer; loading a model takes seconds, converting one a minute.

    Raises:
        inference.errors.ModelMissing, UnsupportedModel: With what to do in the message.
    """
    match config.engine:
        case EngineKind.NONE:
            from inference.none import no_engine

            return no_engine()
        case EngineKind.TOY:
            return toy_engine(config)
        case EngineKind.EMBEDDED:
            return embedded_engine(config, progress)


def toy_engine(config: PeerConfig) -> EngineWorker:
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
    return EngineWorker(ToyEngine(toy), in_thread=False)


def embedded_engine(config: PeerConfig, progress: Progress) -> EngineWorker:
    """The model on this host's processor or GPU."""
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
    return EngineWorker(load_engine(settings, progress), in_thread=True)
