"""The serving side of a forwarded request in core mode: what ``overlay/serve.py`` does, as calls.

Every answer travels over the session that the request came by; where that ends, the request does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from chaos.modes.core.network import End
from chaos.modes.core.peer import CorePeer
from inference.errors import (
    ContextOverflow,
    EngineOverloaded,
    InferenceError,
    InvalidRequest,
    UnknownModel,
)
from inference.request import EngineRequest, Namespace, TokenEvent
from overlay.forward import PROGRESS_EVERY_S
from overlay.work import Broken, Refused, Work
from security.peer_id import PeerId

Failure = Refused | Broken | InferenceError


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """Where an answer goes, as calls at the ingress."""

    accepted: Callable[[float, int], None]
    piece: Callable[[TokenEvent], None]
    alive: Callable[[], None]
    failed: Callable[[Failure], None]


def request_of(peer: CorePeer, work: Work) -> EngineRequest:
    """The engine's request for ``work``. Raises ``Refused`` where this host is no member."""
    tenant = peer.tenants.get(work.tenant)
    if tenant is None:
        raise Refused("not_a_member")
    assert work.token_ids is not None
    return EngineRequest(
        request_id=work.request_id,
        namespace=Namespace(work.tenant),
        chain_key=tenant.keys.chain_key,
        model=work.model,
        token_ids=work.token_ids,
        sampling=work.sampling,
        emitted=work.emitted,
        body=work.body,
        cache_salt=tenant.keys.salt.hex(),
    )


def start(
    peer: CorePeer, work: Work, on_event: Callable[[TokenEvent | InferenceError], None]
) -> None:
    """Runs ``work`` on this host's engine.

    Raises:
        Refused: Where it is not taken; nothing was started.
        ContextOverflow, InvalidRequest: Where the request itself is at fault.
    """
    try:
        peer.engine.submit(request_of(peer, work), on_event)
    except UnknownModel as error:
        raise Refused("unknown_model") from error
    except EngineOverloaded as error:
        raise Refused("overloaded") from error


class Serving:
    """One forwarded request at the peer that runs it."""

    def __init__(self, peer: CorePeer, end: End, work: Work, to: Answering) -> None:
        self._peer = peer
        self._end = end
        self._work = work
        self._to = to
        self._over = False
        self._told_s = peer.now_s()

    def begin(self, forwarder: PeerId) -> None:
        """Accepts or refuses it."""
        peer, work = self._peer, self._work
        tenant = peer.tenants.get(work.tenant)
        if tenant is None or not peer.tenants.is_member(work.tenant, forwarder):
            self._refuse(Refused("not_a_member"))
            return
        cached_tokens = peer.router.expected_cached_tokens(tenant, work)
        start_s = peer.router.expected_start_s(work)
        try:
            start(peer, work, self._on_event)
        except (Refused, ContextOverflow, InvalidRequest) as error:
            self._refuse(error)
            return
        peer.wait_on(self, self._end, self.cancel)
        self._tell(lambda: self._to.accepted(start_s, cached_tokens))
        peer.later(PROGRESS_EVERY_S, self._progress)

    def cancel(self) -> None:
        """The ingress, or the way to it, is gone."""
        if not self._over:
            self._end_of_it()
            self._peer.engine.cancel(self._work.request_id)

    def _refuse(self, error: Failure) -> None:
        self._over = True
        self._tell(lambda: self._to.failed(error))

    def _end_of_it(self) -> None:
        self._over = True
        self._peer.wait_no_more(self)

    def _on_event(self, event: TokenEvent | InferenceError) -> None:
        if self._over:
            return
        if isinstance(event, InferenceError):
            self._end_of_it()
            self._tell(lambda: self._to.failed(Broken("engine_failed")))
            return
        if event.finish_reason is not None:
            self._end_of_it()
        self._told_s = self._peer.now_s()
        self._tell(lambda: self._to.piece(event))

    def _progress(self) -> None:
        if self._over:
            return
        quiet_s = self._peer.now_s() - self._told_s
        if quiet_s >= PROGRESS_EVERY_S:
            self._told_s, quiet_s = self._peer.now_s(), 0.0
            self._tell(self._to.alive)
        self._peer.later(PROGRESS_EVERY_S - quiet_s, self._progress)

    def _tell(self, call: Callable[[], None]) -> None:
        self._peer.tell(self._end, call)
