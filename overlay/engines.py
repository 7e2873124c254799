"""Makes the engine that the settings ask for. Torch is imported only for the embedded one."""

from __future__ import annotations

from pathlib import Path

from inference.core import EngineCore
from inference.store.convert import Progress
from inference.worker import EngineWorker
from overlay.choices import EngineKind, Isolation
from overlay.config import PeerConfig
from overlay.errors import ConfigError
from overlay.ports import Engine, Entropy

EMBEDDED_SLOTS = 8
"""Requests that the embedded engine computes at once where nobody says otherwise."""


def make_engine(config: PeerConfig, progress: Progress, entropy: Entropy) -> Engine:
    """The engine of one peer; loading a model takes seconds, converting one a minute.

    Args:
        config: The peer's settings.
        progress: Told what takes long.
        entropy: What a remote engine's server is tried with.

    Raises:
        ConfigError: The server's URL or key cannot be used.
        inference.errors.ModelMissing, UnsupportedModel: With what to do in the message.
    """
    if config.engine is EngineKind.NONE:
        from inference.none import no_engine

        return no_engine()
    if config.engine.is_remote:
        return remote_engine(config, entropy)
    return EngineWorker(make_core(config, progress), in_thread=computes(config))


def computes(config: PeerConfig) -> bool:
    """Whether the engine's steps take real time, and so need a thread."""
    return config.engine is EngineKind.EMBEDDED


def make_core(config: PeerConfig, progress: Progress) -> EngineCore:
    """What an engine other than none computes with; raises as :func:`make_engine`."""
    return embedded_core(config, progress) if computes(config) else toy_core(config)


def remote_engine(config: PeerConfig, entropy: Entropy) -> Engine:
    """A server that runs on this host already. Raises :class:`ConfigError`."""
    from inference.remote.engine import RemoteEngine
    from inference.remote.pictures import picture_of
    from inference.remote.settings import RemoteKind, RemoteSettings

    assert config.engine_url is not None, "settings of a remote engine have its URL"
    try:
        settings = RemoteSettings(
            kind=RemoteKind(config.engine.value),
            url=config.engine_url,
            model=config.engine_model,
            tokenizer=config.engine_tokenizer,
            api_key=_key_of(config.engine_key_file),
            slots=config.slots,
            events=config.engine_events,
            replay=config.engine_replay,
            events_bind=config.engine_events_bind,
            ranks=config.engine_ranks,
            queue_max=config.queue_max,
            fetches=config.engine_fetches,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return RemoteEngine(settings, picture_of, secret=entropy.secret)


def _key_of(file: str | None) -> str | None:
    if file is None:
        return None
    try:
        return Path(file).expanduser().read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"engine_key_file: {file} cannot be read: {error}") from None


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
    from inference.store.extras import require_local
    from inference.store.files import default_cache_dir, find_model

    # Before torch, which takes seconds to import: a mistyped name is told at once.
    files = find_model(config.model, default_cache_dir(), progress)
    require_local("the embedded engine", "torch")
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
        slots=config.slots or EMBEDDED_SLOTS,
        reserved_fraction=config.kv_reserved,
        strict=config.isolation is Isolation.STRICT,
    )
    core = load_engine(settings, progress, files=files)
    progress(f"loading {files.name}", 1.0)
    return core
