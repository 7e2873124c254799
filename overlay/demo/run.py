"""Runs the demo: each policy from cold caches, then the cache-off run that judges the answers."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from overlay.client import PeerClient
from overlay.control.client import call
from overlay.control.messages import Explain, ExplainReply
from overlay.demo.checks import (
    all_requests_ended_once,
    no_cross_tenant_hit,
    outputs_equal_cold_run,
)
from overlay.demo.cluster import Cluster, PeerProcess, running_cluster
from overlay.demo.record import RequestRecord, Summary, summarise
from overlay.demo.reference import Reference
from overlay.demo.workload import Question, workload
from overlay.errors import OverlayError
from overlay.home import Home
from overlay.request import Delta, Finished, Started

NAMES = ("anna", "bert", "cleo")
TENANTS = ("tenant-a", "tenant-b")
POLICIES = ("cost", "random", "local")
POLICIES_MORE = ("longest-prefix", "bounded-hash")
"""Run too where that is expected to end within :data:`TIME_MAX_S`."""

TIME_MAX_S = 270.0
CLIENTS = 3

TORCH_CACHE = "TORCHINDUCTOR_CACHE_DIR"
"""Environment variable: torch makes this folder as soon as transformers is imported."""

ENGINE_FLAGS = ("--threads", "1", "--dtype", "float32", "--device", "cpu")
FORWARD_FLAGS = ("--forward-budget", "2s", "--silence", "10s")
FORWARD_WHY = (
    "three engines share the cores of this machine, so that a peer may wait for one longer than on "
    "a host of its own"
)
"""The defaults are meant for one peer per host."""

Say = Callable[[str, int, int], None]
"""What is under way, how much of it is done, out of how many."""


@dataclass(kw_only=True)
class DemoResult:
    """Everything that was observed."""

    peers: list[PeerProcess] = field(default_factory=list)
    records: list[RequestRecord] = field(default_factory=list)
    summaries: dict[str, Summary] = field(default_factory=dict)
    checks: dict[str, bool | None] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    took_s: float = 0.0

    def public(self) -> dict[str, object]:
        """The result as ``--json`` writes it."""
        return {
            "peers": [
                {
                    "name": peer.name,
                    "pid": peer.pids[-1],
                    "peer_id": peer.peer_id,
                    "earlier_pids": peer.pids[:-1],
                }
                for peer in self.peers
            ],
            "requests": [record.public() for record in self.records],
            "summary": {name: summary.public() for name, summary in self.summaries.items()},
            "checks": self.checks,
        }


async def run_demo(
    *,
    seed: int,
    policies: Sequence[str],
    model: str | None,
    keep: bool,
    say: Say,
    time_max_s: float = TIME_MAX_S,
) -> tuple[DemoResult, Path]:
    """Runs every policy on three real peers; the folder is gone afterwards unless ``keep``.

    Policies after the first three are left out, and named, where time is short.

    Raises:
        OverlayError: When a peer cannot be started or ends.
    """
    result = DemoResult()
    before = torch_files()
    folder = Path(tempfile.mkdtemp(prefix="rhizome-demo-"))
    engine = (*ENGINE_FLAGS, *(("--model", model) if model else ()))
    questions = workload(seed, TENANTS, len(NAMES))
    kept, began_s = False, trio.current_time()
    try:
        with torch_writes_to(folder):
            reference = Reference(model)
            reference.load(lambda what, share: say(what, int(100 * share), 100))
            async with running_cluster(folder, NAMES, TENANTS, keep=keep) as cluster:
                result.peers = cluster.peers
                say("three hosts join one overlay", 0, 1)
                await cluster.create(*engine)
                flags = (*engine, *FORWARD_FLAGS)
                deadline_s = began_s + time_max_s
                ran = await run_policies(
                    cluster, policies, questions, result, say, flags=flags, deadline_s=deadline_s
                )
                result.skipped = [policy for policy in policies if policy not in ran]
                await cluster.stop()
                await judge(result, questions, reference, ran, say)
                if keep:
                    await cluster.start("--policy", POLICIES[0], *flags)
        kept = keep
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)
    result.took_s = trio.current_time() - began_s
    result.checks["cleaned_up"] = None if kept else cleaned_up(result.peers, folder, before)
    return result, folder


async def run_policies(
    cluster: Cluster,
    policies: Sequence[str],
    questions: Sequence[Question],
    result: DemoResult,
    say: Say,
    *,
    flags: Sequence[str],
    deadline_s: float,
) -> list[str]:
    """Runs each policy on freshly started peers; which ones there was time for."""
    longest_s = 0.0
    ran: list[str] = []
    for policy in policies:
        began_s = trio.current_time()
        # The judge answers half as many questions, one at a time and with nothing cached.
        if len(ran) >= len(POLICIES) and began_s + 2 * longest_s > deadline_s:
            break
        say(f"{policy}: starting three peers", 0, len(questions))
        await cluster.stop()
        await cluster.start("--policy", policy, *flags)
        await run_policy(cluster, policy, questions, result, say)
        longest_s = max(longest_s, trio.current_time() - began_s)
        ran.append(policy)
    return ran


async def run_policy(
    cluster: Cluster, policy: str, questions: Sequence[Question], result: DemoResult, say: Say
) -> None:
    """A closed loop of three clients; each takes the next question when it has its answer."""
    began_s = trio.current_time()
    pending = iter(questions)
    records: list[RequestRecord] = []
    async with AsyncExitStack() as stack:
        clients = {
            (index, tenant): await stack.enter_async_context(
                PeerClient.connect(home=peer.home, tenant=tenant)
            )
            for index, peer in enumerate(cluster.peers)
            for tenant in TENANTS
        }

        async def client() -> None:
            for question in pending:
                asked = clients[question.ingress, question.tenant]
                records.append(await ask(asked, policy, question, cluster.peers))
                say(policy, len(records), len(questions))

        async with trio.open_nursery() as nursery:
            for _ in range(CLIENTS):
                nursery.start_soon(client)
    took_s = trio.current_time() - began_s
    names = [peer.name for peer in cluster.peers]
    result.records += sorted(records, key=lambda record: record.number)
    result.summaries[policy] = summarise(records, names, took_s)


async def ask(
    client: PeerClient, policy: str, question: Question, peers: Sequence[PeerProcess]
) -> RequestRecord:
    """One request, as its client sees it."""
    names = {peer.peer_id: peer.name for peer in peers}
    began_s = trio.current_time()
    first_s: float | None = None
    token_ids: list[int] = []
    finished: Finished | None = None
    endings = 0
    status = "ok"
    answer = client.chat(question.messages, **question.fields)
    try:
        async for event in answer:
            match event:
                case Delta():
                    if first_s is None and (event.token_ids or event.text):
                        first_s = trio.current_time()
                    token_ids += event.token_ids or ()
                case Finished():
                    finished = event
                    endings += 1
                case Started():
                    pass
    except OverlayError as error:
        status = getattr(error, "code", type(error).__name__)
        endings += 1
    ended_s = trio.current_time()
    tried = await peers_tried(peers[question.ingress], answer.request_id)
    return RequestRecord(
        policy=policy,
        number=question.number,
        tenant=question.tenant,
        ingress=peers[question.ingress].name,
        served_by="" if finished is None else names[finished.served_by],
        tried=tuple(name for peer_id, name in names.items() if peer_id in tried),
        prompt_tokens=0 if finished is None else finished.usage.prompt_tokens,
        cached_tokens=0 if finished is None else finished.usage.cached_tokens,
        token_ids=tuple(token_ids),
        began_s=began_s,
        ttft_s=(ended_s if first_s is None else first_s) - began_s,
        completion_s=ended_s - began_s,
        hops=0 if finished is None else finished.hops,
        status=status if finished is not None or status != "ok" else "ended_early",
        endings=endings,
    )


async def peers_tried(ingress: PeerProcess, request_id: str | None) -> set[str]:
    """The peers that a request was given to, as its ingress remembers."""
    if request_id is None:
        return set()
    reply = await call(Home(ingress.home), Explain(request_id=request_id), ExplainReply)
    return {route.chosen for route in reply.routes}


async def judge(
    result: DemoResult,
    questions: Sequence[Question],
    reference: Reference,
    policies: Sequence[str],
    say: Say,
) -> None:
    """The checks that need every question answered once more with nothing cached."""
    prompts = {(q.tenant, q.number): await reference.tokenize(q.messages) for q in questions}
    different = list(dict.fromkeys(prompts.values()))
    answers = await reference.answers(
        different,
        questions[0].fields,
        lambda done: say("the same questions with no cache", done, len(different)),
    )
    answered = dict(zip(different, answers, strict=True))
    cold = {q.number: answered[prompts[q.tenant, q.number]] for q in questions}
    expected: Mapping[str, int] = {policy: len(questions) for policy in policies}
    result.checks["outputs_equal_cold_run"] = outputs_equal_cold_run(result.records, cold)
    result.checks["no_cross_tenant_hit"] = no_cross_tenant_hit(result.records, prompts)
    result.checks["all_requests_ended_once"] = all_requests_ended_once(result.records, expected)


@contextmanager
def torch_writes_to(folder: Path) -> Iterator[None]:
    """Keeps torch's cache of compiled code, of this process and its children, in ``folder``."""
    before = os.environ.get(TORCH_CACHE)
    os.environ[TORCH_CACHE] = str(folder / "torch")
    try:
        yield
    finally:
        del os.environ[TORCH_CACHE]
        if before is not None:
            os.environ[TORCH_CACHE] = before


def torch_files() -> set[str]:
    """What torch has in the temporary folder; other programs put files of their own there."""
    return {each.name for each in Path(tempfile.gettempdir()).iterdir() if "torch" in each.name}


def cleaned_up(peers: Sequence[PeerProcess], folder: Path, before: set[str]) -> bool:
    """Whether every process and all files are gone, as the system sees it.

    Args:
        peers: All that ever ran.
        folder: Everything of ours was in it.
        before: :func:`torch_files` when the demo began.
    """
    ended = not any(alive(pid) for peer in peers for pid in peer.pids)
    return ended and not folder.exists() and torch_files() <= before


def alive(pid: int) -> bool:
    """Whether a process of that id exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
