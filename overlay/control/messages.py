"""``/rhizome/control/1``: what the commands of this host's owner say to the running peer.

Unary calls over the Unix socket in the home folder (mode 0600); owning the socket is the right.
The replies are also what ``--json`` prints.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from overlay.control.http_name_messages import HttpNameCommand, HttpNamesReply
from overlay.control.tenant_messages import TenantCommand, TenantReply, TenantsReply
from overlay.revocation.subject import TEXT_CHARS_MAX, SubjectKind
from overlay.wire import read
from security.hosts import HostRole

PROTOCOL = "/rhizome/control/1"

Name = Annotated[str, Meta(max_length=256)]


class GetStatus(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag="status",
):
    """How is this peer, and what does it know of the others? ``tenant``: of that one's members."""

    tenant: Name = ""


class Explain(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag="explain",
):
    """Why did this request go where it went? Empty: the last one. ``tenant``: of that one's."""

    request_id: Name = ""
    tenant: Name = ""


class Invite(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag="invite",
):
    """A one-use ticket for these tenants; none named: all of them."""

    tenants: Annotated[list[Name], Meta(max_length=64)]
    expires_s: Annotated[float, Meta(gt=0)]
    role: HostRole = HostRole.PEER
    http_names: Annotated[list[Name], Meta(max_length=64)] = []


class CreateToken(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag="token",
):
    """A client's bearer token. No tenant named: the only one there is, or ``default``."""

    tenant: Name
    name: Name
    expires_s: Annotated[float, Meta(gt=0)]
    scopes: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=16)] = ("infer",)


class Revoke(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="revoke"):
    """Revoke a peer, token, ticket or issuer, named in any way that a person may.

    ``kind`` (None: find out) says what it is; with ``unknown`` an id is taken that nobody here has
    heard of. ``sure`` is needed for this host itself and for issuers.
    """

    subject: Annotated[str, Meta(min_length=1, max_length=TEXT_CHARS_MAX)]
    kind: SubjectKind | None
    unknown: bool
    reason: Annotated[str, Meta(max_length=128)]
    sure: bool


class Adopt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="adopt"):
    """Take hosts in that another issuer has enrolled, by their whole PeerIds."""

    peers: Annotated[list[Name], Meta(min_length=1, max_length=256)]


class ListRevocations(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="revocations"
):
    """What is revoked, as far as this host knows."""


class ListTokens(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="tokens"
):
    """The tokens that this issuer has made and that have not ended."""


class Leave(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="leave"):
    """Drain, say goodbye and end."""


Command = (
    GetStatus
    | Explain
    | Invite
    | CreateToken
    | Revoke
    | Adopt
    | ListRevocations
    | ListTokens
    | Leave
    | HttpNameCommand
    | TenantCommand
)


class PeerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What this host knows of one other peer. Ages in seconds; None: nothing known."""

    peer_id: str
    address: str
    zone: str | None
    rtt_ms: float | None
    heard_age_s: float
    knowledge_age_s: float | None
    prefixes: int
    slots: int | None
    running: int | None
    queued: int | None
    suspected: bool
    dtypes: list[str] = []
    variants: dict[str, str] = {}


class StatusReply(msgspec.Struct, frozen=True, kw_only=True, tag="status"):
    """This peer.

    ``dtypes`` and ``variants`` (of weights) are those of its own engine, by model; ``posture`` says
    what was found of that engine, and what is degraded.
    """

    peer_id: str
    overlay_id: str
    generation: int
    addresses: list[str]
    http: list[str]
    tenants: list[str]
    engine: str
    device: str | None
    models: list[str]
    policy: str
    draining: bool
    slots: int
    running: int
    queued: int
    used_blocks: int
    total_blocks: int
    open_requests: int
    sent_bytes: int
    peers: list[PeerStatus]
    dtypes: dict[str, str] = {}
    posture: list[tuple[str, str]] = []
    variants: dict[str, str] = {}
    confirmed: bool = True
    waits_for: list[str] = []
    revocations: int = 0
    revoked: bool = False


class CandidateReply(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate of a decision; milliseconds. ``excluded`` says why it was not eligible.

    ``matched_tokens`` is what its digest (or this host's cache) has, ``counted_tokens`` what was
    counted on after age, trust and our own placements. ``score_ms`` is what the policy compared.
    Peers that differ in ``dtype`` alone serve the same model; answers may differ at near-ties.
    ``variant`` names the weights. ``estimated``: what it has cached is inferred by its host, as its
    engine does not tell.
    """

    peer_id: str
    here: bool
    matched_tokens: int
    counted_tokens: float
    queue_ms: float
    rtt_ms: float
    prefill_ms: float
    decode_ms: float
    total_ms: float
    score_ms: float
    excluded: str | None
    dtype: str = ""
    variant: str = ""
    estimated: bool = False


class RouteReply(msgspec.Struct, frozen=True, kw_only=True):
    """One decision; ``prompt_tokens`` is a guess where this host has no tokenizer.

    ``basis`` says by what prompts were compared with caches: ``tokens``; ``text``, where the
    engine's tokenizer is not to be had; or ``load alone``, where nothing of it can be compared.
    """

    chosen: str
    policy: str
    reason: str
    prompt_tokens: int
    expected_output_tokens: float
    candidates: list[CandidateReply]
    basis: str = "tokens"


class OutcomeReply(msgspec.Struct, frozen=True, kw_only=True):
    """What came true; milliseconds."""

    state: str
    served_by: str | None
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    ttft_ms: float | None
    total_ms: float | None
    attempts: int
    resumes: int


class ExplainReply(msgspec.Struct, frozen=True, kw_only=True, tag="explain"):
    """One request: its decisions in order, and how it ended (None: it still runs)."""

    request_id: str
    age_s: float
    routes: list[RouteReply]
    outcome: OutcomeReply | None


class InviteReply(msgspec.Struct, frozen=True, kw_only=True, tag="invite"):
    """A ticket, shown once; ``ticket_id`` revokes it."""

    ticket: str
    tenants: list[str]
    expires_unix_s: int
    ticket_id: str
    role: HostRole = HostRole.PEER
    http_names: list[str] = []


class TokenReply(msgspec.Struct, frozen=True, kw_only=True, tag="token"):
    """A token, shown once; ``token_id`` revokes it."""

    base_url: str
    api_key: str
    tenant: str
    name: str
    expires_unix_s: int
    scopes: list[str]
    token_id: str


class RevokeReply(msgspec.Struct, frozen=True, kw_only=True, tag="revoke"):
    """It is revoked: stored here, enforced here, and ``peers`` that are up are being told.

    ``already``: it was revoked before, and nothing is new. ``name`` is a token's.
    """

    kind: str
    id: str
    name: str
    already: bool
    peers: int


class RevocationStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One statement."""

    id: str
    since_unix_s: int
    reason: str
    issuer: str


class RevocationsReply(msgspec.Struct, frozen=True, kw_only=True, tag="revocations"):
    """What is revoked: ``total`` statements, of which the ones learned last, newest first."""

    total: int
    revocations: list[RevocationStatus]


class TokenStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One token; never the token itself."""

    token_id: str
    tenant: str
    name: str
    scopes: list[str]
    issued_unix_s: int
    expires_unix_s: int
    revoked: bool


class TokensReply(msgspec.Struct, frozen=True, kw_only=True, tag="tokens"):
    """The tokens of this issuer, oldest first."""

    tokens: list[TokenStatus]


class AdoptReply(msgspec.Struct, frozen=True, kw_only=True, tag="adopted"):
    """Hosts that are in this issuer's table from now on, and those that were before."""

    adopted: list[str]
    already: list[str]


class LeaveReply(msgspec.Struct, frozen=True, kw_only=True, tag="leave"):
    """The peer is draining and will end."""


class ControlRefusal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="refusal"):
    """It cannot be done; the message says what to do. ``usage``: the command was wrong."""

    message: str
    usage: bool = True


Reply = (
    StatusReply
    | ExplainReply
    | InviteReply
    | TokenReply
    | RevokeReply
    | AdoptReply
    | RevocationsReply
    | TokensReply
    | LeaveReply
    | TenantReply
    | TenantsReply
    | HttpNamesReply
    | ControlRefusal
)

_encoder = msgspec.msgpack.Encoder()
_command: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_reply: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def encode(message: Command | Reply) -> bytes:
    """The bytes of one message."""
    return _encoder.encode(message)


def decode_command(data: bytes) -> Command:
    """Reads a command. Raises ProtocolError, without the content."""
    return read(_command, data, "control message")


def decode_reply(data: bytes) -> Reply:
    """Reads a reply. Raises ProtocolError, without the content."""
    return read(_reply, data, "control message")
