"""The serving side of ``/rhizome/control/1``: the host's owner asks or orders."""

from __future__ import annotations

from collections.abc import Callable

from overlay.address import Address
from overlay.control.adopting import adopt
from overlay.control.http_name_messages import ChangeHttpNames, ListHttpNames
from overlay.control.http_names import http_names
from overlay.control.messages import (
    Adopt,
    CandidateReply,
    Command,
    ControlRefusal,
    CreateToken,
    Explain,
    ExplainReply,
    GetStatus,
    Invite,
    InviteReply,
    Leave,
    LeaveReply,
    ListRevocations,
    ListTokens,
    OutcomeReply,
    PeerStatus,
    Reply,
    Revoke,
    RouteReply,
    StatusReply,
    TokenReply,
    decode_command,
    encode,
)
from overlay.control.revoking import revocations_of, revoke, tokens_of
from overlay.control.tenant_messages import AddMember, CreateTenant, RemoveMember, RotateTenant
from overlay.control.tenant_view import narrow_explain, narrow_status
from overlay.control.tenants import reply_to
from overlay.decisions import Explained, Outcome
from overlay.errors import ConfigError, OverlayError, ProtocolError, Unavailable
from overlay.issuer import IssuerDesk
from overlay.node import Node
from overlay.route import Route
from overlay.served import advertised, weights_of
from overlay.steward import Steward
from overlay.transport.connection import Connection
from overlay.transport.stream import Stream
from security.epoch import TenantEpoch
from security.errors import SecurityError
from security.peer_id import PeerId
from security.tenant import TenantId

NOT_AN_ISSUER = (
    "only an issuer's host can do that: run it where 'rhizome init' or 'rhizome ca issuer install' "
    "was run"
)

ISSUER_REVOKED = (
    "this host's issuer is revoked, and what it signs is void: do that on another issuer's host "
    "('rhizome ca issuer list')"
)

SIGNED = (
    Invite,
    CreateToken,
    Adopt,
    ChangeHttpNames,
    CreateTenant,
    AddMember,
    RemoveMember,
    RotateTenant,
)
"""Commands for which the issuer signs something that others are to believe."""

NOT_KNOWN = (
    "that request is not among the last 1,000 that this peer took in: "
    "ask the peer that answered it first (header x-request-id)"
)

NOTHING_YET = "this peer has taken in no request yet: send it one, as with 'rhizome ask TEXT'"

WAITS_FOR_SHOWN = 16

NOT_A_COMMAND = (
    "the running peer does not know that command, or a value in it is too large; "
    "if rhizome was updated, restart the peer"
)


class ControlHandler:
    """Answers the commands of this host's owner."""

    def __init__(
        self,
        node: Node,
        *,
        desk: IssuerDesk | None,
        enrolment: tuple[Address, ...],
        http: Callable[[], tuple[str, ...]],
    ) -> None:
        self._node = node
        self._desk = desk
        self._enrolment = enrolment
        self._http = http

    async def __call__(self, connection: Connection, stream: Stream) -> None:  # noqa: ARG002 - a handler
        """Answers one command."""
        try:
            reply = self._reply(decode_command(stream.body))
        except ProtocolError:
            reply = ControlRefusal(message=NOT_A_COMMAND)
        except (OverlayError, SecurityError) as error:
            usage = not isinstance(error, Unavailable)
            reply = ControlRefusal(message=str(error), usage=usage)
        await stream.send(encode(reply))
        await stream.finish()

    def _reply(self, command: Command) -> Reply:
        desk = self._desk
        if isinstance(command, SIGNED) and desk and self._node.keeper.revokes(desk.issuer_id):
            raise ConfigError(ISSUER_REVOKED)
        match command:
            case GetStatus():
                tenant = self._tenant(command.tenant)
                return status_of(self._node, self._http(), tenant)
            case Explain():
                return self._explain(command)
            case Invite():
                return self._invite(command)
            case CreateToken():
                return self._create_token(command)
            case Revoke():
                return self._revoke(command)
            case Adopt():
                return adopt(self._node, self._need_desk(), command)
            case ListRevocations():
                return revocations_of(self._node)
            case ListTokens():
                return self._tokens()
            case ChangeHttpNames() | ListHttpNames():
                return http_names(command, self._need_desk())
            case Leave():
                self._node.leaving.set()
                return LeaveReply()
            case _:
                return reply_to(command, self._node, self._steward())

    def _steward(self) -> Steward | None:
        if self._desk is None:
            return None
        secret = self._node.ports.entropy.secret
        return Steward(desk=self._desk, keys=self._node.identity.keys, secret=secret)

    def _need_desk(self) -> IssuerDesk:
        if self._desk is None:
            raise ConfigError(NOT_AN_ISSUER)
        return self._desk

    def _tenant(self, name: str) -> TenantEpoch | None:
        """The tenant that a command is about; None for all of them."""
        return self._node.principals.tenant_named(name) if name else None

    def _explain(self, command: Explain) -> Reply:
        named = self._tenant(command.tenant)
        tenant = None if named is None else named.tenant_id
        found = explain(self._node, command.request_id, tenant)
        if found is None:
            return ControlRefusal(
                message=NOT_KNOWN if command.request_id else NOTHING_YET, usage=False
            )
        return found

    def _invite(self, command: Invite) -> Reply:
        desk = self._need_desk()
        ticket = desk.invite(
            command.tenants,
            self._enrolment,
            command.expires_s,
            role=command.role,
            http_names=command.http_names,
        )
        return InviteReply(
            ticket=ticket.to_text(),
            tenants=list(ticket.tenants),
            expires_unix_s=ticket.expires_unix_s,
            ticket_id=ticket.ticket_id,
            role=ticket.role,
            http_names=list(desk.authority.tickets[ticket.ticket_id].http_names),
        )

    def _create_token(self, command: CreateToken) -> Reply:
        desk = self._need_desk()
        http = self._http()
        if not http:
            return ControlRefusal(message="this peer serves no HTTP: start it with --http")
        tenant = command.tenant or desk.usual_tenant()
        token = desk.create_token(tenant, command.name, command.expires_s, command.scopes)
        return TokenReply(
            base_url=http[0] + "/v1",
            api_key=token.text,
            tenant=tenant,
            name=command.name,
            expires_unix_s=token.expires_unix_s,
            scopes=sorted(set(command.scopes)),
            token_id=token.token_id,
        )

    def _revoke(self, command: Revoke) -> Reply:
        return revoke(self._node, self._need_desk(), command)

    def _tokens(self) -> Reply:
        return tokens_of(self._node, self._need_desk())


def status_of(node: Node, http: tuple[str, ...], tenant: TenantEpoch | None = None) -> StatusReply:
    """This peer and what it knows of the others; with ``tenant``, what that one may see."""
    whole = _status_of(node, http, tenant)
    if tenant is None:
        return whole
    return narrow_status(whole, node.ingress.open_of(tenant.tenant_id))


def _status_of(node: Node, http: tuple[str, ...], tenant: TenantEpoch | None) -> StatusReply:
    engine = node.ports.engine
    capabilities, load = engine.capabilities(), engine.load()
    return StatusReply(
        peer_id=node.peer_id,
        overlay_id=node.trust.now.overlay_id,
        generation=node.generation,
        addresses=[str(address) for address in node.addresses],
        http=list(http),
        tenants=[epoch.name for epoch in node.tenants] if tenant is None else [tenant.name],
        engine=capabilities.description,
        device=capabilities.device,
        models=sorted(node.router.models()),
        policy=node.router.policy.name,
        draining=node.draining,
        slots=capabilities.slots,
        running=load.running,
        queued=load.queued,
        used_blocks=load.used_blocks,
        total_blocks=load.total_blocks,
        open_requests=node.ingress.open_requests,
        sent_bytes=node.peers.sent_bytes(),
        peers=[
            peer_status(node, peer_id, tenant)
            for peer_id in node.peers.up()
            if tenant is None or peer_id in tenant.members
        ],
        dtypes={model.name: model.output.dtype for model in capabilities.models},
        posture=_posture(node),
        variants={model.name: advertised(model).weights for model in capabilities.models},
        confirmed=node.confirmation.event.is_set(),
        waits_for=waits_for(node),
        revocations=len(node.revocations.statements),
        revoked=node.standing.is_out,
    )


def _posture(node: Node) -> list[tuple[str, str]]:
    """What others say unsigned is told only where nothing signed says the same."""
    said = [] if node.standing.is_out else node.peers.refusals.posture()
    return [*said, *node.engine_posture()]


def waits_for(node: Node) -> list[str]:
    """Who could tell this host what is revoked, where it does not know that; not all of many."""
    others: list[str] = [] if node.confirmation.event.is_set() else [*node.confirmation.others()]
    return others[:WAITS_FOR_SHOWN]


def peer_status(node: Node, peer_id: PeerId, tenant: TenantEpoch | None = None) -> PeerStatus:
    """One peer that is up."""
    now_s = node.ports.clock.now_s()
    connection = node.peers.connection(peer_id)
    assert connection is not None, "up() names peers that have a connection"
    picture = node.knowledge.load(peer_id)
    rtt_s = connection.rtt_s
    return PeerStatus(
        peer_id=peer_id,
        address=str(connection.remote.address),
        zone=connection.remote.hello.zone,
        rtt_ms=None if rtt_s is None else rtt_s * 1000,
        heard_age_s=now_s - connection.last_heard_s,
        knowledge_age_s=None if picture is None else now_s - picture.taken_s,
        prefixes=node.knowledge.prefixes(peer_id, tenant),
        slots=None if picture is None else picture.slots,
        running=None if picture is None else picture.running,
        queued=None if picture is None else picture.queued,
        suspected=node.router.probation.suspected(peer_id),
        dtypes=sorted({model.dtype for model in node.knowledge.models(peer_id)}),
        variants={model.name: model.weights for model in node.knowledge.models(peer_id)},
    )


def explain(node: Node, request_id: str, tenant: TenantId | None) -> ExplainReply | None:
    """A request, the last one where none is named; with ``tenant``, what that one may see."""
    decisions, now_s = node.decisions, node.ports.clock.now_s()
    found = decisions.find(request_id, tenant) if request_id else decisions.last(tenant)
    if found is None:
        return None
    explained = explain_of(found, now_s)
    return explained if tenant is None else narrow_explain(explained)


def explain_of(explained: Explained, now_s: float) -> ExplainReply:
    """One request's decisions and outcome, in milliseconds."""
    outcome = explained.outcome
    return ExplainReply(
        request_id=explained.request_id,
        age_s=now_s - explained.at_s,
        routes=[route_of(route) for route in explained.routes],
        outcome=None if outcome is None else outcome_of(outcome),
    )


def outcome_of(outcome: Outcome) -> OutcomeReply:
    """How it ended."""
    usage = outcome.usage
    return OutcomeReply(
        state=outcome.state,
        served_by=outcome.served_by,
        prompt_tokens=None if usage is None else usage.prompt_tokens,
        cached_tokens=None if usage is None else usage.cached_tokens,
        completion_tokens=None if usage is None else usage.completion_tokens,
        ttft_ms=None if outcome.ttft_s is None else outcome.ttft_s * 1000,
        total_ms=None if outcome.total_s is None else outcome.total_s * 1000,
        attempts=outcome.attempts,
        resumes=outcome.resumes,
    )


def route_of(route: Route) -> RouteReply:
    """One decision, every candidate's terms in milliseconds."""
    decision = route.decision
    terms, excluded = decision.terms, decision.excluded
    return RouteReply(
        chosen=route.peer_id,
        policy=decision.policy,
        reason=decision.reason.value,
        prompt_tokens=decision.query.prompt_tokens,
        expected_output_tokens=decision.query.expected_output_tokens,
        basis=route.basis.value,
        candidates=[
            CandidateReply(
                peer_id=candidate.peer_id,
                here=candidate.local,
                matched_tokens=candidate.matched_tokens,
                counted_tokens=terms[candidate.peer_id].matched_tokens,
                queue_ms=terms[candidate.peer_id].queue_s * 1000,
                rtt_ms=terms[candidate.peer_id].rtt_s * 1000,
                prefill_ms=terms[candidate.peer_id].prefill_s * 1000,
                decode_ms=terms[candidate.peer_id].decode_s * 1000,
                total_ms=terms[candidate.peer_id].total_s * 1000,
                score_ms=terms[candidate.peer_id].score_s * 1000,
                excluded=None
                if candidate.peer_id not in excluded
                else excluded[candidate.peer_id].value,
                dtype=candidate.view.dtype,
                variant=weights_of(candidate.view.variant),
                estimated=candidate.view.estimated,
            )
            for candidate in decision.candidates
        ],
    )
