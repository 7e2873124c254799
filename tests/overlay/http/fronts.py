"""A made-up peer for the application's tests: its tokens, its models, and scripted answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field

import trio

from chaos.clock import VirtualClock
from chaos.entropy import SeededEntropy
from inference.request import FinishReason
from overlay.body import check_engines_can
from overlay.errors import RequestError
from overlay.principals import unauthorized
from overlay.quotas import QuotaLimits, Quotas
from overlay.request import (
    AnswerEvent,
    Delta,
    Finished,
    Principal,
    Scope,
    Started,
    Submission,
    Usage,
)
from security.peer_id import PeerId
from security.tenant import TenantId

TENANT = TenantId("ab" * 16)
SERVING = PeerId("r" * 52)
STARTED = Started(model="toy", served_by=SERVING)
FINISHED = Finished(
    reason=FinishReason.STOP,
    usage=Usage(prompt_tokens=20, completion_tokens=3, cached_tokens=16),
    served_by=SERVING,
    hops=1,
    resumes=2,
)

Step = AnswerEvent | Exception | float
"""An event, an error that is raised, or seconds that pass."""


def said(*texts: str) -> tuple[Step, ...]:
    """A whole answer."""
    return (STARTED, *[Delta(text=text, token_ids=None) for text in texts], FINISHED)


@dataclass
class ScriptedIngress:
    """``overlay.request.Ingress`` that plays one script for every request."""

    script: Sequence[Step] = said("Hello", " world")
    submissions: list[Submission] = field(default_factory=list)
    open_requests: int = 0
    whole: int = 0
    passes_bodies: bool = False
    left_in: list[trio.lowlevel.Task] = field(default_factory=list)
    changed: trio.Event = field(default_factory=trio.Event)

    @asynccontextmanager
    async def open(self, submission: Submission) -> AsyncIterator[AsyncIterator[AnswerEvent]]:
        """A request is left in the task that entered it, or cancel scopes would break."""
        self.submissions.append(submission)
        self.open_requests += 1
        task = trio.lowlevel.current_task()
        try:
            check_engines_can(submission.call, beyond=self.passes_bodies)
            async with aclosing(self._play()) as events:
                yield events
        finally:
            assert trio.lowlevel.current_task() is task
            self.left_in.append(task)
            self.open_requests -= 1
            self.changed.set()

    async def _play(self) -> AsyncGenerator[AnswerEvent, None]:
        for step in self.script:
            if isinstance(step, Exception):
                raise step
            if isinstance(step, float):
                await trio.sleep(step)
            else:
                self.whole += isinstance(step, Finished)
                yield step


@dataclass
class MadeUpFront:
    """``overlay.http.front.Front`` with a few tokens, named by what they are for."""

    ingress: ScriptedIngress = field(default_factory=ScriptedIngress)
    clock: VirtualClock = field(default_factory=VirtualClock)
    entropy: SeededEntropy = field(default_factory=lambda: SeededEntropy(1, "front"))
    request_timeout_s: float = 600.0
    draining: bool = False
    names: tuple[str, ...] = ("toy", "org/name")
    quotas: QuotaLimits = field(default_factory=QuotaLimits)

    def __post_init__(self) -> None:
        self._quotas = Quotas(self.quotas, self.clock, serves=lambda _: True)

    def admitted(self, principal: Principal) -> AbstractContextManager[None]:
        return self._quotas.admitted(principal)

    def authenticate(self, bearer: str) -> Principal:
        scopes = {
            "good": {Scope.INFER},
            "status-only": {Scope.STATUS},
            "admin-only": {Scope.ADMIN},
            "nothing": set(),
        }
        if bearer not in scopes:
            raise unauthorized("the token is not good here")
        return Principal(tenant=TENANT, token_id="t1", scopes=frozenset(scopes[bearer]))

    def check_open(self) -> None:
        if self.draining:
            raise RequestError("draining", code="draining", status=503, retry_after_s=5.0)

    def models(self, tenant: TenantId) -> Iterable[str]:
        return iter(self.names)

    def health(self) -> Mapping[str, object]:
        return {"status": "ok"}

    def metrics(self, principal: Principal) -> tuple[str, bytes]:
        assert Scope.INFER not in principal.scopes
        return "text/plain; version=1", b"metric 1\n"

    def status(self, principal: Principal) -> bytes:
        assert Scope.INFER not in principal.scopes
        return b'{"type": "status"}'

    def explain(self, principal: Principal, request_id: str) -> bytes | None:
        assert Scope.INFER not in principal.scopes
        return b'{"type": "explain"}' if request_id in {"", "a" * 32} else None
