"""Clients of live nodes: the product's own client over each node's socket.

A request ends in the history once, as in simulation. INFO is for those whose ingress was down,
killed or stopped meanwhile: where it ran all the time, an answer that breaks off is a failure.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import trio

from chaos.history import What
from chaos.modes.asked import AT_FAULT, PATIENCE_S, SEED, prompt_ids, prompt_text
from chaos.modes.live.cluster import LiveCluster, LiveHost
from chaos.modes.live.process import NodeProcess
from chaos.scenario.schedule import PlannedRequest
from overlay.client.client import PeerClient
from overlay.errors import Deadline, HomeError, OverlayError, RequestError
from overlay.request import Delta, Finished, Started

LOST = (HomeError, OverlayError, OSError, trio.BrokenResourceError)
"""What a client gets whose ingress is gone."""

BROKE = "broke"
DEADLINE = "deadline_exceeded"
END_SEEN_S = 2.0
"""A connection breaks a little before the end of its process is seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How clients of an ingress behave while a fault lasts."""

    fault_id: str
    hang_up_after_tokens: int | None = None
    gap_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Ingress:
    """The process of an ingress as it was when a request was sent there."""

    host: LiveHost
    boot: NodeProcess | None
    stops: int

    @classmethod
    def of(cls, host: LiveHost) -> _Ingress:
        boot = host.process if host.up else None
        return cls(host, boot, 0 if boot is None else boot.stops)

    async def was_there(self) -> bool:
        """Whether it has run all the time, and was never stopped."""
        boot = self.boot
        if boot is None or boot.stopped or boot.stops > self.stops:
            return False
        with trio.move_on_after(END_SEEN_S):
            await boot.process.wait()
        return self.host.process is boot and boot.runs and boot.stops == self.stops


@dataclass(eq=False)
class LiveClients:
    """Sends planned requests and notes what becomes of each; ``open`` are those under way."""

    cluster: LiveCluster
    nursery: trio.Nursery
    open: dict[str, PlannedRequest] = field(default_factory=dict)
    manners: dict[str, dict[str, Manner]] = field(default_factory=dict)
    effects: dict[str, int] = field(default_factory=dict)
    sent_s: dict[str, float] = field(default_factory=dict)
    last_end_s: float = 0.0
    """When the last request ended, by trio's clock."""

    async def send_all(self, began_s: float) -> None:
        """Sends the schedule's requests at their times of the storm."""
        for request in self.cluster.schedule.requests:
            await trio.sleep_until(began_s + request.at_s)
            self.nursery.start_soon(self._request, request)

    async def _request(self, request: PlannedRequest) -> None:
        cluster, host = self.cluster, self.cluster.hosts[request.ingress]
        text = prompt_text(request)
        self.open[request.id] = request
        self.sent_s[request.id] = cluster.history.now()
        cluster.history.add(
            What.INVOKE,
            request.id,
            ingress=request.ingress,
            tenant=request.tenant,
            max_tokens=request.max_tokens,
            prompt_tokens=len(prompt_ids(text)) if cluster.schedule.cluster.engine == "toy" else 0,
        )
        ingress = _Ingress.of(host)
        if host.stopped:
            self._mark("ingress_silent", request)
        try:
            with trio.move_on_after(request.timeout_s + PATIENCE_S) as patience:
                await self._ask(ingress, request, text)
            if patience.cancelled_caught:
                self._out_of_patience(host, request)
        finally:
            self.open.pop(request.id, None)

    async def _ask(self, ingress: _Ingress, request: PlannedRequest, text: str) -> None:
        cancel_s = float("inf") if request.cancel_after_s is None else request.cancel_after_s
        try:
            with trio.move_on_after(cancel_s) as hang_up:
                async with AsyncExitStack() as stack:
                    connect = PeerClient.connect(home=ingress.host.home, tenant=request.tenant)
                    client = await stack.enter_async_context(connect)
                    await self._follow(client, request, text)
            if hang_up.cancelled_caught:
                self._end(What.CANCELLED, request, by="client")
        except RequestError as error:
            outside = request.tenant in self.cluster.schedule.cluster.outside.get(
                request.ingress, ()
            )
            expected = error.code in AT_FAULT or (outside and error.code == "not_a_member")
            self._failed(request, error.code, error.message, expected=expected)
        except Deadline as error:
            await self._broke_off(ingress, request, DEADLINE, str(error))
        except LOST as error:
            await self._broke_off(ingress, request, BROKE, f"{type(error).__name__}: {error}")

    async def _follow(self, client: PeerClient, request: PlannedRequest, text: str) -> None:
        history, tokens = self.cluster.history, 0
        manners = tuple(self.manners.get(request.ingress, {}).values())
        answer = client.chat(
            [{"role": "user", "content": text}],
            timeout_s=request.timeout_s,
            max_tokens=request.max_tokens,
            temperature=0,
            seed=SEED,
        )
        async with answer:
            async for event in answer:
                if answer.request_id is not None:
                    self.cluster.requests[answer.request_id] = request.id
                match event:
                    case Started(served_by=served_by):
                        node = self.cluster.name_of(served_by)
                        history.add(What.STARTED, request.id, node=node)
                    case Delta(token_ids=ids):
                        history.add(What.TOKENS, request.id, ids=list(ids or ()))
                        tokens += len(ids or ())
                    case Finished():
                        self._finished(request, event)
                        return
                for manner in manners:
                    most = manner.hang_up_after_tokens
                    if most is not None and tokens >= most:
                        self._note(manner)
                        self._end(What.CANCELLED, request, by=manner.fault_id)
                        return
                    if manner.gap_s and isinstance(event, Delta):
                        self._note(manner)
                        await trio.sleep(manner.gap_s * len(event.token_ids or (0,)))

    def _end(self, what: What, request: PlannedRequest, **data: object) -> None:
        """Writes how a request ended: the first thing that its client learned counts."""
        if self.open.pop(request.id, None) is not None:
            self.last_end_s = trio.current_time()
            self.cluster.history.add(what, request.id, **data)

    def _failed(
        self, request: PlannedRequest, code: str, message: str, *, expected: bool = False
    ) -> None:
        self._end(What.FAIL, request, code=code, message=message[:200], expected=expected)

    def _finished(self, request: PlannedRequest, event: Finished) -> None:
        self._end(
            What.OK,
            request,
            reason=event.reason.value,
            node=self.cluster.name_of(event.served_by),
            prompt_tokens=event.usage.prompt_tokens,
            cached_tokens=event.usage.cached_tokens,
            completion_tokens=event.usage.completion_tokens,
            hops=event.hops,
            resumes=event.resumes,
            attempts=0,
        )
        self.cluster.history.add(What.LANDMARK, "answered", node=request.ingress)
        if event.hops:
            self.cluster.history.add(What.LANDMARK, "forwarded", node=request.ingress)

    def _note(self, manner: Manner) -> None:
        self.effects[manner.fault_id] = self.effects.get(manner.fault_id, 0) + 1

    async def _broke_off(
        self, ingress: _Ingress, request: PlannedRequest, code: str, why: str
    ) -> None:
        if await ingress.was_there():
            self._failed(request, code, why)
            return
        silent = ingress.host.stopped or (ingress.boot is not None and ingress.boot.stops > 0)
        self._mark("ingress_silent" if silent else "ingress_lost", request)
        self._end(What.INFO, request, why=why[:200])

    def _out_of_patience(self, host: LiveHost, request: PlannedRequest) -> None:
        waited_s = request.timeout_s + PATIENCE_S
        if host.stopped:
            self._mark("ingress_silent", request)
        else:
            why = "open after its deadline"
            self.cluster.history.add(What.STUCK, request.id, why=why, for_s=waited_s)
        self._end(What.INFO, request, why=f"no end after {waited_s:g} s")

    def _mark(self, mark: str, request: PlannedRequest) -> None:
        self.cluster.history.add(What.MARK, mark, node=request.ingress, request=request.id)
