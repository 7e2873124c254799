"""What the HTTP application needs of a peer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from overlay.ports import Clock, Entropy
from overlay.request import Ingress, Principal
from security.tenant import TenantId


class Front(Protocol):
    """A peer, as its HTTP clients see it."""

    @property
    def ingress(self) -> Ingress: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def entropy(self) -> Entropy: ...

    @property
    def request_timeout_s(self) -> float: ...

    def authenticate(self, bearer: str) -> Principal:
        """Raises RequestError 401."""
        ...

    def admitted(self, principal: Principal) -> AbstractContextManager[None]:
        """Counts a request while the block lasts. Entering raises RequestError 429."""
        ...

    def check_open(self) -> None:
        """Raises RequestError 503 while the peer takes nothing new."""
        ...

    def models(self, tenant: TenantId) -> Iterable[str]: ...

    def health(self) -> Mapping[str, object]: ...

    def metrics(self, principal: Principal) -> tuple[str, bytes]:
        """Content type and body; of its tenant's requests alone where it is no administrator."""
        ...

    def status(self, principal: Principal) -> bytes:
        """JSON, of what it may see. Raises RequestError 421."""
        ...

    def explain(self, principal: Principal, request_id: str) -> bytes | None:
        """JSON of a request that it may see, the last one for an empty id; None: there is none."""
        ...
