"""What a person wants to have revoked: from what was typed to a kind and an id.

PeerIds, whole tickets and whole tokens are told by their form. Ids of tokens, tickets and issuers
all have 32 hex digits: which one is meant is looked up among those that are known here.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from overlay.errors import ConfigError
from security.errors import SecurityError
from security.peer_id import PEER_ID_CHARS, parse_peer_id
from security.ticket import PREFIX as TICKET_PREFIX
from security.ticket import TICKET_CHARS_MAX, Ticket
from security.token import token_id_of
from security.trust import Trust

TEXT_CHARS_MAX = TICKET_CHARS_MAX
TAIL_CHARS_MIN = 6
"""The end of a PeerId that stands for it: 'rhizome status' shows eight letters."""

_ID = re.compile(r"[0-9a-f]{32}")
_LETTERS = re.compile(r"[1-9A-HJ-NP-Za-km-z]+")


class SubjectKind(enum.StrEnum):
    """What can be revoked."""

    PEER = "peer"
    TOKEN = "token"  # noqa: S105 - a word
    TICKET = "ticket"
    ISSUER = "issuer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is to be revoked; ``name`` is what a token is called."""

    kind: SubjectKind
    id: str
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownIds:
    """What is known on the issuer's host. ``tokens`` has their names, ``tenants`` is no subject."""

    trust: Trust
    peers: Collection[str]
    tokens: Mapping[str, str]
    tickets: Collection[str]
    tenants: Collection[str]


def subject_of(
    text: str, known: KnownIds, kind: SubjectKind | None = None, *, unknown: bool = False
) -> Subject:
    """What ``text`` means.

    Args:
        text: A PeerId or the end of a known one, a ticket, a token, or the id of one.
        known: What is known here.
        kind: What it is said to be; None to find out.
        unknown: Whether an id that is not known here is taken. ``kind`` is needed then.

    Raises:
        ConfigError: When it is nothing, something else, or could be several.
    """
    text = text.strip()
    found = _by_form(text, known) or _by_id(text, known)
    if len(found) == 1 and kind in {None, found[0].kind}:
        return found[0]
    if len(found) > 1:
        several = ", ".join(f"{each.kind} {each.id}" for each in found[:4])
        raise ConfigError(f"{text[:64]!r} could be any of {several}: give the whole id")
    if found:
        raise ConfigError(f"that is a {found[0].kind}, and no {kind}")
    is_other = text in known.tenants or text == known.trust.overlay_id
    if kind is not None and unknown and not is_other and _has_form(text, kind):
        return Subject(kind=kind, id=text)
    raise ConfigError(_unknown(text, known, kind))


def _by_form(text: str, known: KnownIds) -> list[Subject]:
    """Whole tickets and tokens, which tell by themselves what they are."""
    if text.lower().startswith(TICKET_PREFIX):
        try:
            ticket = Ticket.parse(text)
        except SecurityError as error:
            raise ConfigError(f"that ticket cannot be read: {error}") from None
        if ticket.overlay_id != known.trust.overlay_id:
            raise ConfigError("that ticket is for another overlay")
        return [Subject(kind=SubjectKind.TICKET, id=ticket.ticket_id)]
    if text.count(".") == 2:
        try:
            token_id = token_id_of(text, known.trust)
        except SecurityError as error:
            raise ConfigError(f"that token cannot be read: {error}") from None
        return [_token(token_id, known)]
    return []


def _by_id(text: str, known: KnownIds) -> list[Subject]:
    found = []
    if text in known.tokens:
        found.append(_token(text, known))
    if text in known.tickets:
        found.append(Subject(kind=SubjectKind.TICKET, id=text))
    if text in known.trust.issuers:
        found.append(Subject(kind=SubjectKind.ISSUER, id=text))
    if len(text) >= TAIL_CHARS_MIN and _LETTERS.fullmatch(text):
        named = sorted({peer_id for peer_id in known.peers if peer_id.endswith(text)})
        found += [Subject(kind=SubjectKind.PEER, id=peer_id) for peer_id in named]
    return found


def _token(token_id: str, known: KnownIds) -> Subject:
    return Subject(kind=SubjectKind.TOKEN, id=token_id, name=known.tokens.get(token_id, ""))


def _has_form(text: str, kind: SubjectKind) -> bool:
    if kind is not SubjectKind.PEER:
        return _ID.fullmatch(text) is not None
    try:
        return parse_peer_id(text) == text
    except SecurityError:
        return False


def _unknown(text: str, known: KnownIds, kind: SubjectKind | None) -> str:
    if text in known.tenants:
        return "that is a tenant, and tenants are not revoked: revoke its hosts or its tokens"
    if text == known.trust.overlay_id:
        return "that is the overlay itself: begin another one with 'rhizome init --home FOLDER'"
    if len(text) == PEER_ID_CHARS and _LETTERS.fullmatch(text):
        return (
            "no host of that PeerId is known here; check it, and if it is right say so with "
            "--as peer"
        )
    if _ID.fullmatch(text):
        return (
            f"no {kind or 'token, ticket or issuer'} of that id is known here; check it, and if "
            "it is another issuer's say what it is: rhizome revoke ID --as token, ticket or issuer"
        )
    return (
        f"{text[:64]!r} is no PeerId, ticket, token, or id of one: see 'rhizome status --json', "
        "'rhizome token list'"
    )
