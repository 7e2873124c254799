"""The models that a server lists, and what it tells of each: as cards, which can be compared.

A server's models change while it runs (one is pulled, another removed, a file replaced under the
same name), so its cards are made anew at every look. They hold nothing that changes by itself, as
the time of the listing does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from inference.errors import InferenceError, UnknownModel
from inference.remote.kinds import KINDS, ServerKind
from inference.remote.server import Json, Server, ServerBroken, ServerRefused
from inference.remote.settings import RemoteKind
from inference.request import canonical_json

MODELS_PATH = "/v1/models"
TAGS_PATH = "/api/tags"
PROPS_PATH = "/props"
MODELS_MAX = 32
NAME_CHARS_MAX = 256
TEXT_CHARS_MAX = 512
WORD_CHARS_MAX = 32
CONTEXT_MAX = 1 << 24


class WrongKind(InferenceError):
    """The server is not of the kind that its owner said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A model as its server lists it.

    ``root`` is where it was loaded from (folder, file or hub id), ``parent`` the model that it is
    an adapter of. ``digest`` names its weights, and ``quantisation`` what was done to them, where
    the server tells. ``mark`` has no meaning but that it differs for another model.
    """

    name: str
    owner: str | None = None
    root: str | None = None
    parent: str | None = None
    context_tokens: int | None = None
    digest: str | None = None
    quantisation: str | None = None
    mark: str = ""


async def list_cards(server: Server, kind: ServerKind) -> list[Card]:
    """All models.

    Raises:
        ServerError: It is not there, or lists none.
    """
    listed = (await server.get_json(MODELS_PATH)).get("data")
    cards = [
        Card(
            name=name,
            owner=text_of(each.get("owned_by")),
            root=text_of(each.get("root")),
            parent=text_of(each.get("parent")),
            context_tokens=number_of(each.get("max_model_len"), CONTEXT_MAX),
            mark=_mark(each.get("meta")),
        )
        for each in (listed if isinstance(listed, list) else ())
        if (name := _name_of(each)) is not None
    ]
    if not cards:
        raise ServerBroken("the inference server lists no models")
    if kind.kind is RemoteKind.OLLAMA:
        return await _with_tags(server, cards)
    if kind.kind is RemoteKind.LLAMACPP and len(cards) == 1:
        return [await _with_file(server, cards[0])]
    return cards


async def check_kind(server: Server, kind: ServerKind, cards: Sequence[Card]) -> None:
    """Raises :class:`WrongKind` when the server is of another kind."""
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


def wanted_of(cards: Sequence[Card], model: str | None) -> tuple[Card, ...]:
    """The cards that are served: all, or the one that its owner named.

    Raises:
        UnknownModel: It is not there.
    """
    if model is None:
        return tuple(cards[:MODELS_MAX])
    found = [card for card in cards if card.name == model]
    if not found:
        names = ", ".join(card.name for card in cards[:5])
        raise UnknownModel(f"the inference server has no model {model!r}; it has {names}")
    return tuple(found[:1])


def text_of(value: object) -> str | None:
    """A line of text; None for anything else."""
    is_line = isinstance(value, str) and value.isprintable()
    return value if isinstance(value, str) and is_line and 0 < len(value) < TEXT_CHARS_MAX else None


def word_of(value: object) -> str | None:
    """As :func:`text_of`, short enough for a line that is told to other peers."""
    text = text_of(value)
    return None if text is None else text[:WORD_CHARS_MAX]


def number_of(value: object, most: int) -> int | None:
    """A number above zero; None for anything else."""
    return value if type(value) is int and 0 < value <= most else None


def _name_of(listed: object) -> str | None:
    name = listed.get("id") if isinstance(listed, dict) else None
    fits = isinstance(name, str) and name.isprintable() and 0 < len(name) <= NAME_CHARS_MAX
    return name if fits else None


def _mark(meta: object) -> str:
    if meta is None:
        return ""
    return hashlib.sha256(canonical_json(meta).encode()).hexdigest()


async def _with_tags(server: Server, cards: list[Card]) -> list[Card]:
    """Ollama names the weights of each model elsewhere."""
    try:
        listed = (await server.get_json(TAGS_PATH)).get("models")
    except ServerRefused:
        listed = None
    tags = {
        each["name"]: each
        for each in (listed if isinstance(listed, list) else ())
        if isinstance(each, dict) and isinstance(each.get("name"), str)
    }
    return [_tagged(card, tags.get(card.name, {})) for card in cards]


def _tagged(card: Card, tag: Json) -> Card:
    details = tag.get("details")
    level = details.get("quantization_level") if isinstance(details, dict) else None
    return replace(card, digest=text_of(tag.get("digest")), quantisation=word_of(level))


async def _with_file(server: Server, card: Card) -> Card:
    """llama.cpp has one model, and tells of which file."""
    try:
        props = await server.get_json(PROPS_PATH)
    except ServerRefused:
        return card
    return replace(card, root=text_of(props.get("model_path")) or card.root)
