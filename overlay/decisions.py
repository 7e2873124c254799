"""What was decided for the last requests and what came true, for ``rhizome explain``.

In memory, without prompt text, and shown to the tenant whose request it was.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from overlay.request import Usage
from overlay.route import Route
from security.peer_id import PeerId
from security.tenant import TenantId

KEPT = 1000
"""Requests remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a request ended. ``state`` is a finish reason or an error code; seconds throughout."""

    state: str
    served_by: PeerId | None = None
    usage: Usage | None = None
    ttft_s: float | None = None
    total_s: float | None = None
    resumes: int = 0
    attempts: int = 0


@dataclass(slots=True)
class Explained:
    """One request: every route that was decided, in order, and its outcome."""

    request_id: str
    tenant: TenantId
    at_s: float
    routes: list[Route] = field(default_factory=list)
    outcome: Outcome | None = None


class DecisionLog:
    """The last :data:`KEPT` requests of this ingress."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._requests: OrderedDict[str, Explained] = OrderedDict()

    def decided(self, request_id: str, tenant: TenantId, route: Route, now_s: float) -> None:
        """Notes a route; further ones of the same request are retries."""
        explained = self._requests.get(request_id)
        if explained is None:
            explained = Explained(request_id, tenant, now_s)
            self._requests[request_id] = explained
            if len(self._requests) > self._kept:
                self._requests.popitem(last=False)
        explained.routes.append(route)

    def ended(self, request_id: str, outcome: Outcome) -> None:
        """Notes how it ended; requests that were never routed are not kept."""
        explained = self._requests.get(request_id)
        if explained is not None:
            explained.outcome = outcome

    def find(self, request_id: str, tenant: TenantId | None) -> Explained | None:
        """One request, for its own tenant only; None stands for the host's owner."""
        explained = self._requests.get(request_id)
        if explained is None or tenant not in (None, explained.tenant):
            return None
        return explained

    def last(self, tenant: TenantId | None) -> Explained | None:
        """The newest request of a tenant."""
        for explained in reversed(self._requests.values()):
            if tenant in (None, explained.tenant):
                return explained
        return None
