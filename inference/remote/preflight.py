"""What is asked of a server before it serves: at start, and each time that it was away.

1. Is it the kind of server that its owner said? Another kind is an error that names it.
2. Which models, how long a context, how many slots, which grain its cache has.
3. How prompts are read (``readers.py``), and where it tells about its cache (``sources.py``).
4. Whether its salt keeps tenants apart, and whether it reports cached tokens and gives the tokens
   of an answer: seen on three tiny completions. A salt that could not be checked counts only where
   the server's version is one that is known to have it (``kinds.py``), and the owner is told that
   it rests on that; its cache events count for nothing here.
5. Which weights each model has. A name says nothing of them, nor do the tokenizer's files. They are
   those of the folder, file or hub id that the server says it has loaded, where that is here too
   (and what vLLM does to them on loading, ``--quantization``, it does not tell), or those that it
   names by a digest itself. Weights that are not told are like nobody else's.

What is missing is no error but a line for the owner (``degraded``): the server serves without it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from inference.remote.answer import usage_of
from inference.remote.body import TEXT_PATH
from inference.remote.cards import (
    CONTEXT_MAX,
    Card,
    check_kind,
    list_cards,
    number_of,
    text_of,
    wanted_of,
    word_of,
)
from inference.remote.events.endpoints import EndpointUnusable, EventSource
from inference.remote.kinds import KINDS, ServerKind
from inference.remote.load import ServerMetrics, read_metrics
from inference.remote.local_model import load_local, load_weights
from inference.remote.readers import PromptReader, ServerTokens, choose_reader
from inference.remote.server import Json, Server, ServerError, ServerRefused
from inference.remote.settings import RemoteKind, RemoteSettings
from inference.remote.sources import find_sources
from inference.request import BLOCK_TOKENS, OutputIdentity, PrefixIdentity, ServedModel
from inference.store.hub import is_hub_id

SLOTS_MAX = 1 << 12
PROBE_TOKENS_MAX = 1024
PROBE_BLOCKS = 2.5

Secret = Callable[[int], bytes]
"""So many bytes that nobody can guess."""

_HOW_TO_REPORT = {
    RemoteKind.VLLM: "--enable-prompt-tokens-details",
    RemoteKind.SGLANG: "--enable-cache-report",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """What was found.

    ``models`` with the ``readers`` of their prompts, by name, and the ``cards`` that they were made
    of. ``isolation`` says what ``salts`` rests on. ``block_tokens`` is the cache's grain
    in our terms, ``server_block_tokens`` in its own (None: not told). ``sources`` are there only
    where cache events can be used. ``degraded`` has a sentence for everything that is missing.
    ``cache_blocks`` is how many of our blocks its cache holds, 0 where it does not tell.
    """

    models: tuple[ServedModel, ...]
    readers: Mapping[str, PromptReader]
    cards: tuple[Card, ...]
    block_tokens: int
    server_block_tokens: int | None
    slots: int
    salts: bool
    isolation: str
    reports_cached: bool
    gives_token_ids: bool
    sources: tuple[EventSource, ...]
    degraded: tuple[str, ...]
    version: str
    cache_blocks: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What tiny completions have shown; None: they did not show it."""

    salts: bool | None = None
    reports_cached: bool | None = None
    gives_ids: bool | None = None
    degraded: tuple[str, ...] = ()


async def look(
    server: Server, settings: RemoteSettings, *, secret: Secret, own: str | None = None
) -> Preflight:
    """Looks a server over.

    Args:
        server: The server.
        settings: What its owner said of it.
        secret: For what it must not have met before.
        own: What weights that it does not tell are called; None for a name of this look alone.

    Raises:
        ServerError: It is not there, or not in order.
        WrongKind: It is another kind of server.
        UnknownModel: It has no such model.
        EndpointUnusable: Its owner named an endpoint of events that cannot be that of every rank.
    """
    kind = KINDS[settings.kind]
    listed = await list_cards(server, kind)
    await check_kind(server, kind, listed)
    cards = wanted_of(listed, settings.model)
    info = await _info(server, kind)
    version = await _version(server, kind, info)
    metrics = await ask_metrics(server, kind)
    degraded: list[str] = []
    grain = number_of(info.get("page_size"), CONTEXT_MAX) or metrics.block_tokens
    block_tokens, fits = _grain(grain, kind)
    models: list[ServedModel] = []
    readers: dict[str, PromptReader] = {}
    tokenizer = _tokenizer_of(settings, cards, degraded)
    for card in cards:
        context = _context(card, settings, kind, info, degraded)
        reader = await _reader(server, settings, card, tokenizer, context, degraded)
        output = await _output(card, kind, info, own or secret(BLOCK_TOKENS).hex(), degraded)
        readers[card.name] = reader
        models.append(_served(card, context, reader, output))
    sources = await _sources(server, settings, info, degraded)
    if sources and not fits:
        degraded.append(f"its cache's blocks of {grain} tokens fit no block of ours: events unused")
        sources = ()
    if sources and len(models) > 1:
        degraded.append(f"its cache events are used for {models[0].name} alone")
    traits = await _traits(server, kind, models[0], grain or kind.block_tokens, secret)
    isolation = _isolation(kind, traits, version, degraded)
    return Preflight(
        models=tuple(models),
        readers=readers,
        cards=cards,
        block_tokens=block_tokens,
        server_block_tokens=grain,
        slots=_slots(settings, kind, info),
        salts=bool(isolation),
        isolation=isolation,
        reports_cached=bool(kind.tells_cached or traits.reports_cached),
        gives_token_ids=kind.ids_field is not None
        and traits.gives_ids is not False
        and all(reader.tokens for reader in readers.values()),
        sources=sources,
        degraded=(*degraded, *traits.degraded),
        version=f"{kind.title} {version}".strip(),
        cache_blocks=metrics.cache_blocks,
    )


async def ask_metrics(server: Server, kind: ServerKind) -> ServerMetrics:
    """What the server's metrics say; nothing where it has none.

    Raises:
        ServerUnreachable, ServerBroken: It is gone.
    """
    if kind.metrics is None:
        return ServerMetrics()
    try:
        return read_metrics(await server.get_text("/metrics"), kind.metrics)
    except ServerRefused:
        return ServerMetrics()


async def _info(server: Server, kind: ServerKind) -> Json:
    try:
        return {} if kind.info_path is None else await server.get_json(kind.info_path)
    except ServerRefused:
        return {}


async def _version(server: Server, kind: ServerKind, info: Json) -> str:
    told = info.get("version") or info.get("build_info")
    path = {RemoteKind.VLLM: "/version", RemoteKind.OLLAMA: "/api/version"}.get(kind.kind)
    try:
        if told is None and path is not None:
            told = (await server.get_json(path)).get("version")
    except ServerError:
        told = None
    return told[:64] if isinstance(told, str) and told.isprintable() else ""


def _grain(grain: int | None, kind: ServerKind) -> tuple[int, bool]:
    """The cache's grain as a multiple of our blocks, and whether its events fit them."""
    grain = grain or kind.block_tokens
    if grain % BLOCK_TOKENS == 0:
        return grain, True
    return BLOCK_TOKENS, BLOCK_TOKENS % grain == 0


def _context(
    card: Card, settings: RemoteSettings, kind: ServerKind, info: Json, degraded: list[str]
) -> int:
    generation = info.get("default_generation_settings")
    nested = generation if isinstance(generation, dict) else {}
    told = number_of(nested.get("n_ctx"), CONTEXT_MAX)
    known = card.context_tokens or told or number_of(info.get("context_length"), CONTEXT_MAX)
    if settings.context_tokens or known:
        return settings.context_tokens or known or kind.default_context
    degraded.append(
        f"{card.name}: its context length is not told, {kind.default_context} tokens are assumed"
    )
    return kind.default_context


def _slots(settings: RemoteSettings, kind: ServerKind, info: Json) -> int:
    told = number_of(info.get("total_slots"), SLOTS_MAX)
    told = told or number_of(info.get("max_running_requests"), SLOTS_MAX)
    return settings.slots or told or kind.default_slots


def _tokenizer_of(
    settings: RemoteSettings, cards: Sequence[Card], degraded: list[str]
) -> str | None:
    """The owner's tokenizer, if it is clear of which model it is."""
    if settings.tokenizer is not None and len({card.root or card.name for card in cards}) > 1:
        degraded.append(
            f"the tokenizer that was given is of one model, and the server has {len(cards)}: it is "
            "not used, name the model as well (--engine-model)"
        )
        return None
    return settings.tokenizer


async def _reader(
    server: Server,
    settings: RemoteSettings,
    card: Card,
    tokenizer: str | None,
    context: int,
    degraded: list[str],
) -> PromptReader:
    kind = KINDS[settings.kind]
    local = await load_local((tokenizer, card.root, card.name), context_tokens=context)
    asked = None
    if kind.tokenize is not None:
        within_s = settings.timeouts.tokenize_s
        asked = ServerTokens(server, kind.tokenize, card.name, within_s=within_s)
    choice = await choose_reader(local.tokenizer, asked, model=card.name)
    degraded += [*filter(None, (local.problem,)), *choice.degraded]
    return choice.reader


async def _output(
    card: Card, kind: ServerKind, info: Json, own: str, degraded: list[str]
) -> OutputIdentity:
    """Which weights a model has; ``own`` stands for those that are not told."""
    dtype = word_of(info.get("dtype")) or "unknown"
    online = word_of(info.get("quantization"))
    if card.digest is not None:
        quantisation = online or card.quantisation or "unknown"
        return OutputIdentity(weights=card.digest, quantisation=quantisation, dtype=dtype)
    # SGLang lists the name that it serves the model by, and tells its folder elsewhere.
    told = info.get("model_path") if kind.kind is RemoteKind.SGLANG else None
    root = text_of(told) or card.root
    local = None if card.parent is not None else await load_weights(root)
    if local is not None:
        quantisation = online or word_of(local.quantisation) or "unknown"
        return OutputIdentity(weights=local.digest, quantisation=quantisation, dtype=dtype)
    if card.parent is None and root is not None and kind.loads_hub_ids and is_hub_id(root):
        # Its files are not on this host, as where the server has a container of its own.
        return OutputIdentity(weights=f"hub:{root}", quantisation=online or "unknown", dtype=dtype)
    degraded.append(
        f"{card.name}: its weights are not told: no other peer goes on with its answers, nor is "
        "it one for theirs, and requests go from one to the other only with --allow-variants"
    )
    return OutputIdentity(
        weights=f"own:{own}:{card.name}", quantisation=online or "unknown", dtype=dtype
    )


async def _sources(
    server: Server, settings: RemoteSettings, info: Json, degraded: list[str]
) -> tuple[EventSource, ...]:
    try:
        return await find_sources(server, settings, KINDS[settings.kind], info)
    except EndpointUnusable as error:
        if settings.events is not None:
            raise  # its owner's mistake
        degraded.append(f"its cache events cannot be used: {error}")
        return ()


def _isolation(kind: ServerKind, traits: Traits, version: str, degraded: list[str]) -> str:
    """How its salts keep tenants apart, in words; nothing where they are not known to."""
    if kind.salt_field is None or traits.salts is False:
        return ""
    if traits.salts:
        return "a cache salt for each tenant"
    numbers = re.match(r"v?(\d{1,4})\.(\d{1,4})(?!\d)", version, re.ASCII)
    found = (0, 0) if numbers is None else (int(numbers[1]), int(numbers[2]))
    if kind.salts_since is not None and found >= kind.salts_since:
        return f"a cache salt for each tenant (not checked: {kind.title} {version} has it)"
    degraded.append("its salt is unchecked, so it is not known to keep tenants apart")
    return ""


def _served(card: Card, context: int, reader: PromptReader, output: OutputIdentity) -> ServedModel:
    return ServedModel(
        name=card.name,
        context_tokens=context,
        prefix=PrefixIdentity(
            served_model=card.name, tokenizer=reader.tokenizer, template=reader.template
        ),
        output=output,
        passes_bodies=True,
        by_text=not reader.tokens,
    )


async def _traits(
    server: Server, kind: ServerKind, model: ServedModel, grain: int, secret: Secret
) -> Traits:
    """What a server does with a salt, seen on one prompt that it cannot have met before."""
    if kind.salt_field is None:
        return Traits()
    size = int(PROBE_BLOCKS * max(grain, BLOCK_TOKENS))
    if size > min(PROBE_TOKENS_MAX, model.context_tokens // 2):
        return Traits(degraded=(f"its salt is unchecked: blocks of {grain} tokens are too large",))
    noise = secret(BLOCK_TOKENS)
    prompt = [32 + noise[at % len(noise)] % 64 for at in range(size)]
    ours, others = (f"rhizome-preflight-{secret(8).hex()}" for _ in range(2))
    body: Json = {"model": model.name, "prompt": prompt, "max_tokens": 1, "temperature": 0}
    if kind.ids_field is not None:
        body[kind.ids_field] = True
    try:
        first = await server.post_json(TEXT_PATH, body | {kind.salt_field: ours})
        again = usage_of(await server.post_json(TEXT_PATH, body | {kind.salt_field: ours}))
        gives_ids = _gives_ids(first)
        if again is None or again.cached_tokens is None:
            how = _HOW_TO_REPORT.get(kind.kind)
            hint = f" (start it with {how})" if how else ""
            why = f"it does not report cached tokens, so its salt is unchecked{hint}"
            return Traits(gives_ids=gives_ids, reports_cached=False, degraded=(why,))
        if again.cached_tokens == 0:
            why = "it has not kept a prompt for a moment: its prefix cache may be off"
            return Traits(gives_ids=gives_ids, reports_cached=True, degraded=(why,))
        other = usage_of(await server.post_json(TEXT_PATH, body | {kind.salt_field: others}))
    except ServerRefused:
        return Traits(degraded=("its salt is unchecked: it refuses a tiny completion",))
    if other is not None and other.cached_tokens:
        why = "its cache ignores salts: tenants could tell what others have asked"
        return Traits(gives_ids=gives_ids, reports_cached=True, salts=False, degraded=(why,))
    return Traits(gives_ids=gives_ids, reports_cached=True, salts=True)


def _gives_ids(body: Json) -> bool:
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return isinstance(first, dict) and isinstance(first.get("token_ids"), list)
