"""Real peers under load, one of which is killed or stopped: every request ends well."""

from __future__ import annotations

import itertools
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from overlay.client import PeerClient
from overlay.control.client import call
from overlay.control.messages import Explain, ExplainReply
from overlay.demo.cluster import Cluster, PeerProcess, running_cluster
from overlay.home import Home
from overlay.request import Delta, Finished, Started
from overlay.routing.policies import Reason

pytestmark = pytest.mark.processes

TOY = ("--engine", "toy", "--toy-slots", "2", "--toy-decode", "40ms")
SEED = 7
SHARED_DOCUMENTS = 4
"""Half of the requests are about one of these, the others about a text that nobody asked before."""

ANSWER_TOKENS = 60
EARLY_TOKENS = 20
"""An answer with fewer tokens than this has more than a second and a half to go."""

CLIENTS_PER_INGRESS = 2
DETECTED_S = 6.0
"""A ping every 2 s, 3 s of silence after it, and a second of a busy machine."""

BACK_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Ended:
    """One request as its client saw it."""

    ingress: str
    request_id: str
    document: int
    began_s: float
    ended_s: float
    token_ids: tuple[int, ...]
    finished: Finished


@dataclass(eq=False)
class UnderWay:
    """One request until it ends: who answers it now, and the tokens that its client has."""

    served_by: str | None = None
    token_ids: list[int] = field(default_factory=list)


@dataclass
class Load:
    """Clients that ask for as long as they are let."""

    cluster: Cluster
    ended: list[Ended] = field(default_factory=list)
    under_way: set[UnderWay] = field(default_factory=set)
    rng: random.Random = field(default_factory=lambda: random.Random(SEED))
    fresh: Iterator[int] = field(default_factory=lambda: itertools.count(SHARED_DOCUMENTS))

    async def ask(self, client: PeerClient, ingress: PeerProcess) -> None:
        shared = self.rng.random() < 0.5
        document = self.rng.randrange(SHARED_DOCUMENTS) if shared else next(self.fresh)
        messages = [
            {"role": "user", "content": f"Town {document} has its own book of tides. " * 20}
        ]
        began_s = trio.current_time()
        finished = []
        mine = UnderWay()
        self.under_way.add(mine)
        async with client.chat(messages, max_tokens=ANSWER_TOKENS, temperature=0) as answer:
            async for event in answer:
                match event:
                    case Started():
                        mine.served_by = event.served_by
                    case Delta():
                        mine.token_ids += event.token_ids or ()
                    case Finished():
                        finished.append(event)
            self.under_way.remove(mine)
            assert len(finished) == 1, "a request ends exactly once"
            self.ended.append(
                Ended(
                    ingress=ingress.name,
                    request_id=str(answer.request_id),
                    document=document,
                    began_s=began_s,
                    ended_s=trio.current_time(),
                    token_ids=tuple(mine.token_ids),
                    finished=finished[0],
                )
            )

    async def keep_asking(self, client: PeerClient, ingress: PeerProcess) -> None:
        while True:
            await self.ask(client, ingress)

    def since(self, at_s: float) -> list[Ended]:
        """Requests that began after a time."""
        return [each for each in self.ended if each.began_s > at_s]


@asynccontextmanager
async def loaded(folder: Path) -> AsyncIterator[tuple[Cluster, Load]]:
    """Three toy peers; the first two take requests without end."""
    async with running_cluster(folder, ("anna", "bert", "cleo"), ("default",)) as cluster:
        await cluster.create()
        await cluster.start(*TOY)
        load = Load(cluster)
        async with AsyncExitStack() as stack:
            clients = [
                (await stack.enter_async_context(PeerClient.connect(home=ingress.home)), ingress)
                for ingress in cluster.peers[:2]
            ]
            async with trio.open_nursery() as nursery:
                for client, ingress in clients * CLIENTS_PER_INGRESS:
                    nursery.start_soon(load.keep_asking, client, ingress)
                yield cluster, load
                nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool], timeout_s: float) -> None:
    with trio.fail_after(timeout_s):
        while not condition():
            await trio.sleep(0.05)


async def until_busy(victim: PeerProcess, load: Load) -> None:
    """Waits until the victim has answered for others and is in the first part of an answer."""
    served = lambda: [e for e in load.ended if e.finished.served_by == victim.peer_id]  # noqa: E731
    early = lambda: [  # noqa: E731
        each
        for each in load.under_way
        if each.served_by == victim.peer_id and 0 < len(each.token_ids) < EARLY_TOKENS
    ]
    await until(lambda: len(served()) >= 2, 40)
    await until(lambda: bool(early()), 40)


async def routes_to(cluster: Cluster, ended: list[Ended], peer_id: str) -> list[str]:
    """Why requests were sent to a peer, one reason for each time."""
    homes = {peer.name: Home(peer.home) for peer in cluster.peers}
    reasons = []
    for each in ended:
        asked = Explain(request_id=each.request_id)
        reply = await call(homes[each.ingress], asked, ExplainReply)
        reasons += [route.reason for route in reply.routes if route.chosen == peer_id]
    return reasons


def answers_agree(load: Load) -> None:
    """The toy engine's answer is a function of its prompt: broken or not, it is the same."""
    for document in range(SHARED_DOCUMENTS):
        answers = {each.token_ids for each in load.ended if each.document == document}
        assert len(answers) <= 1


async def test_every_request_survives_kill_9_of_a_serving_peer(tmp_path: Path) -> None:
    async with loaded(tmp_path) as (cluster, load):
        victim = cluster.peers[2]
        await until_busy(victim, load)
        assert victim.process is not None
        victim.process.send_signal(signal.SIGKILL)
        await victim.process.wait()
        died_s = trio.current_time()
        await until(lambda: len(load.since(died_s + 1)) >= 12, 60)
        after = load.since(died_s + 1)
        assert victim.peer_id not in {each.finished.served_by for each in after}
        assert len(await routes_to(cluster, after, victim.peer_id)) <= 1
        assert any(each.finished.resumes for each in load.ended), "nothing was under way there"
        await cluster.start_peer(victim, *TOY)
        await cluster.ready(victim)
        back_s = trio.current_time()
        await until(lambda: served_since(load, victim, back_s), BACK_S)
        answers_agree(load)


async def test_every_request_survives_a_stopped_peer_and_it_is_used_again(tmp_path: Path) -> None:
    async with loaded(tmp_path) as (cluster, load):
        victim = cluster.peers[2]
        await until_busy(victim, load)
        assert victim.process is not None
        stopped_s = trio.current_time()
        os.kill(victim.process.pid, signal.SIGSTOP)
        try:
            await until(lambda: len(load.since(stopped_s + DETECTED_S)) >= 12, 60)
        finally:
            os.kill(victim.process.pid, signal.SIGCONT)
        back_s = trio.current_time()
        after = [each for each in load.since(stopped_s + DETECTED_S) if each.ended_s < back_s]
        assert victim.peer_id not in {each.finished.served_by for each in after}
        reasons = await routes_to(cluster, after, victim.peer_id)
        assert set(reasons) <= {Reason.PROBE.value}
        assert len(reasons) <= 1
        await until(lambda: served_since(load, victim, back_s), BACK_S)
        answers_agree(load)


def served_since(load: Load, peer: PeerProcess, at_s: float) -> bool:
    return any(each.finished.served_by == peer.peer_id for each in load.since(at_s))
