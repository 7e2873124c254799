"""What is asked of a server before it serves: at start, and each time that it was away.

1. Is it the kind of server that its owner said? Another kind is an error that names it.
2. Which models, how long a context, how many slots, which grain its cache has.
3. How prompts are read (``readers.py``), and where it tells about its cache (``sources.py``).
4. Whether its salt keeps tenants apart, and whether it reports cached tokens and gives the tokens
   of an answer: seen on three tiny completions.

What is missing is no error but a line for the owner (``degraded``): the server serves without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from inference.errors import InferenceError, UnknownModel
from inference.remote.answer import usage_of
from inference.remote.body import TEXT_PATH
from inference.remote.kinds import KINDS, ServerKind
from inference.remote.load import ServerMetrics, read_metrics
from inference.remote.local_model import LocalModel, load_local
from inference.remote.readers import PromptReader, ServerTokens, choose_reader
from inference.remote.server import Json, Server, ServerBroken, ServerError, ServerRefused
from inference.remote.settings import RemoteKind, RemoteSettings
from inference.remote.sources import EventSource, find_sources
from inference.request import BLOCK_TOKENS, OutputIdentity, PrefixIdentity, ServedModel

MODELS_PATH = "/v1/models"
MODELS_MAX = 32
NAME_CHARS_MAX = 256
CONTEXT_MAX = 1 << 24
SLOTS_MAX = 1 << 12
PROBE_TOKENS_MAX = 1024
PROBE_BLOCKS = 2.5

Secret = Callable[[int], bytes]
"""So many bytes that nobody can guess."""

_HOW_TO_REPORT = {
    RemoteKind.VLLM: "--enable-prompt-tokens-details",
    RemoteKind.SGLANG: "--enable-cache-report",
}


class WrongKind(InferenceError):
    """The server is not of the kind that its owner said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """What was found.

    ``models`` with the ``readers`` of their prompts, by name. ``block_tokens`` is the cache's grain
    in our terms, ``server_block_tokens`` in its own (None: not told). ``sources`` are there only
    where cache events can be used. ``degraded`` has a sentence for everything that is missing.
    ``cache_blocks`` is how many of our blocks its cache holds, 0 where it does not tell.
    """

    models: tuple[ServedModel, ...]
    readers: Mapping[str, PromptReader]
    block_tokens: int
    server_block_tokens: int | None
    slots: int
    salts: bool
    reports_cached: bool
    gives_token_ids: bool
    sources: tuple[EventSource, ...]
    degraded: tuple[str, ...]
    version: str
    cache_blocks: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A model as its server lists it."""

    name: str
    owner: str | None = None
    root: str | None = None
    context_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What tiny completions have shown; None: they did not show it."""

    salts: bool | None = None
    reports_cached: bool | None = None
    gives_ids: bool | None = None
    degraded: tuple[str, ...] = ()


async def look(server: Server, settings: RemoteSettings, *, secret: Secret) -> Preflight:
    """Looks a server over.

    Raises:
        ServerError: It is not there, or not in order.
        WrongKind: It is another kind of server.
        UnknownModel: It has no such model.
    """
    kind = KINDS[settings.kind]
    cards = await _cards(server)
    await _check_kind(server, kind, cards)
    cards = _wanted(cards, settings.model)
    info = await _info(server, kind)
    metrics = await ask_metrics(server, kind)
    degraded: list[str] = []
    grain = _number(info.get("page_size"), CONTEXT_MAX) or metrics.block_tokens
    block_tokens, fits = _grain(grain, kind)
    models: list[ServedModel] = []
    readers: dict[str, PromptReader] = {}
    for card in cards:
        context = _context(card, settings, kind, info, degraded)
        local = await load_local((settings.tokenizer, card.root, card.name), context_tokens=context)
        asked = None
        if kind.tokenize is not None:
            within_s = settings.timeouts.tokenize_s
            asked = ServerTokens(server, kind.tokenize, card.name, within_s=within_s)
        choice = await choose_reader(local.tokenizer, asked, model=card.name)
        degraded += [*filter(None, (local.problem,)), *choice.degraded]
        readers[card.name] = choice.reader
        models.append(_served(card, context, choice.reader, local, info))
    sources = await find_sources(server, settings, kind, info)
    if sources and not fits:
        degraded.append(f"its cache's blocks of {grain} tokens fit no block of ours: events unused")
        sources = ()
    traits = await _traits(server, kind, models[0], grain or kind.block_tokens, secret)
    return Preflight(
        models=tuple(models),
        readers=readers,
        block_tokens=block_tokens,
        server_block_tokens=grain,
        slots=_slots(settings, kind, info),
        salts=kind.salt_field is not None and traits.salts is not False,
        reports_cached=bool(kind.tells_cached or traits.reports_cached),
        gives_token_ids=kind.ids_field is not None
        and traits.gives_ids is not False
        and all(reader.tokens for reader in readers.values()),
        sources=sources,
        degraded=(*degraded, *traits.degraded),
        version=f"{kind.title} {await _version(server, kind, info)}".strip(),
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


async def _cards(server: Server) -> list[Card]:
    listed = (await server.get_json(MODELS_PATH)).get("data")
    cards = []
    for each in listed if isinstance(listed, list) else ():
        name = each.get("id") if isinstance(each, dict) else None
        if isinstance(name, str) and name.isprintable() and 0 < len(name) <= NAME_CHARS_MAX:
            cards.append(
                Card(
                    name=name,
                    owner=_text(each.get("owned_by")),
                    root=_text(each.get("root")),
                    context_tokens=_number(each.get("max_model_len"), CONTEXT_MAX),
                )
            )
    if not cards:
        raise ServerBroken("the inference server lists no models")
    return cards


async def _check_kind(server: Server, kind: ServerKind, cards: Sequence[Card]) -> None:
    owners = {each.owner: each for each in KINDS.values() if each.owner}
    looks_like = owners.get(cards[0].owner or "")
    if kind.owner is None or looks_like is kind:
        return
    if looks_like is not None:
        raise WrongKind(
            f"the inference server looks like {looks_like.title} and not like {kind.title}: "
            f"give its kind as {looks_like.kind.value}"
        )
    try:
        if kind.mark_path is not None:
            await server.get_text(kind.mark_path)
    except ServerRefused as error:
        raise WrongKind(
            f"the inference server does not look like {kind.title} (no {kind.mark_path}): "
            f"give its kind as {RemoteKind.OPENAI.value}"
        ) from error


def _wanted(cards: list[Card], model: str | None) -> list[Card]:
    if model is None:
        return cards[:MODELS_MAX]
    found = [card for card in cards if card.name == model]
    if not found:
        names = ", ".join(card.name for card in cards[:5])
        raise UnknownModel(f"the inference server has no model {model!r}; it has {names}")
    return found[:1]


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
    told = _number(generation.get("n_ctx"), CONTEXT_MAX) if isinstance(generation, dict) else None
    known = card.context_tokens or told or _number(info.get("context_length"), CONTEXT_MAX)
    if settings.context_tokens or known:
        return settings.context_tokens or known or kind.default_context
    degraded.append(
        f"{card.name}: its context length is not told, {kind.default_context} tokens are assumed"
    )
    return kind.default_context


def _slots(settings: RemoteSettings, kind: ServerKind, info: Json) -> int:
    told = _number(info.get("total_slots"), SLOTS_MAX)
    told = told or _number(info.get("max_running_requests"), SLOTS_MAX)
    return settings.slots or told or kind.default_slots


def _served(
    card: Card, context: int, reader: PromptReader, local: LocalModel, info: Json
) -> ServedModel:
    return ServedModel(
        name=card.name,
        context_tokens=context,
        prefix=PrefixIdentity(
            served_model=card.name, tokenizer=reader.tokenizer, template=reader.template
        ),
        output=OutputIdentity(
            weights=local.weights or f"server:{card.root or card.name}",
            quantisation=_text(info.get("quantization")) or local.quantisation or "unknown",
            dtype=_text(info.get("dtype")) or "unknown",
        ),
        passes_bodies=True,
        estimated=True,
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


def _text(value: object) -> str | None:
    return (
        value if isinstance(value, str) and value.isprintable() and 0 < len(value) < 512 else None
    )


def _number(value: object, most: int) -> int | None:
    return value if type(value) is int and 0 < value <= most else None
