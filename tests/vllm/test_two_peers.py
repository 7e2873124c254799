"""Two real vLLM servers behind two peers: routing by real hits, and an index that is their caches.

The peers run in this process, on an in-memory network in real time; the servers are processes of
their own. Slow (about five minutes on two cores), so it is no part of ``make test``: run
``make test-vllm``, which installs vLLM into ``.venv-vllm`` first.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import zmq

from chaos.world import Host, World, until, world_of
from inference.events import BlockHash
from inference.remote.engine import RemoteEngine
from inference.remote.pictures import picture_of
from inference.remote.settings import RemoteKind, RemoteSettings
from inference.request import Namespace
from inference.store.files import default_cache_dir, find_model
from overlay.errors import RequestError
from overlay.ingress import IngressLimits
from overlay.request import Delta, Finished
from overlay.system import SystemEntropy
from security.epoch import TenantEpoch
from tests.vllm.serving import BLOCK_TOKENS, Server, running

pytestmark = pytest.mark.vllm

ROOT = Path(__file__).resolve().parent.parent.parent
VENV = ROOT / ".venv-vllm"
MODEL = "SmolLM2-135M-Instruct"
TENANTS = ("anna", "bert")
TOWNS = ("Ashby", "Brandon", "Corfe", "Dunwich", "Ely", "Frome", "Goole", "Hythe")
END_OF_REPLAY = b"\xff" * 8
SETTLED_S = 120.0


@dataclass(frozen=True)
class Answered:
    """One answer, as a client saw it."""

    text: str
    chunks: tuple[Any, ...]
    finished: Finished

    @property
    def cached(self) -> int:
        return self.finished.usage.cached_tokens


@dataclass(frozen=True, kw_only=True)
class Lab:
    """Two peers and their servers, in the same order."""

    world: World
    servers: Sequence[Server]

    async def ask(self, at: int, tenant: str, text: str, **fields: Any) -> Answered:
        """One streamed chat at the ingress of a host."""
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": 4,
            "temperature": 0,
            "stream": True,
            **fields,
        }
        events = await self.world.ask_body(self.world.hosts[at], body, tenant=tenant)
        deltas = [event for event in events if isinstance(event, Delta)]
        (finished,) = [event for event in events if isinstance(event, Finished)]
        return Answered(
            "".join(delta.text for delta in deltas),
            tuple(json.loads(delta.chunk) for delta in deltas if delta.chunk is not None),
            finished,
        )

    def tenant(self, at: int, name: str) -> TenantEpoch:
        found = self.world.hosts[at].running.tenants.named(name)
        assert found is not None
        return found

    def whose(self, answered: Answered) -> int:
        """Which host answered."""
        return [h.identity.peer_id for h in self.world.hosts].index(answered.finished.served_by)


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Server, Server]]:
    if not (VENV / "bin" / "vllm").exists():
        pytest.skip("vLLM is not installed: make test-vllm")
    folder = find_model(None, default_cache_dir(), lambda *_: None).folder
    options = ("--served-model-name", MODEL)
    with ExitStack() as stack:
        first = stack.enter_context(running(folder, options=options, venv=VENV))
        second = stack.enter_context(running(folder, options=options, venv=VENV))
        yield first, second


@asynccontextmanager
async def lab_of(servers: Sequence[Server]) -> AsyncIterator[Lab]:
    def engine_of(server: Server) -> RemoteEngine:
        settings = RemoteSettings(kind=RemoteKind.VLLM, url=f"http://127.0.0.1:{server.port}")
        return RemoteEngine(settings, picture_of, secret=SystemEntropy().secret)

    engines = [lambda server=server: engine_of(server) for server in servers]
    # As in the demo: everything shares two cores, and a peer may wait for one.
    limits = IngressLimits(budget_s=2.0, silence_s=15.0)
    async with world_of(91, engines, tenants=TENANTS, ingress=limits) as world:
        lab = Lab(world=world, servers=servers)
        hosts = world.hosts
        await until(lambda: all(models_at(host) for host in hosts), timeout_s=SETTLED_S)
        await until(
            lambda: all(
                host.running.knowledge.models(other.identity.peer_id)
                for host in hosts
                for other in hosts
                if host is not other
            ),
            timeout_s=SETTLED_S,
        )
        yield lab


def models_at(host: Host) -> Sequence[object]:
    return host.running.ports.engine.capabilities().models


def document(town: str) -> str:
    """About 600 tokens that begin with the town's name, so that no two share a block."""
    return (
        f"{town} has a book of tides. "
        + (
            f"The keeper of {town} writes down when the water comes, how high it stands at the old "
            "bridge, which boats have left before dawn and which of them have come back. "
        )
        * 16
    )


# -- the servers' caches, folded apart from the product


def batches_of(server: Server) -> list[Any]:
    """Every batch that a server has published, from its replay socket."""
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.connect(server.replay)
    socket.send_multipart([b"", (0).to_bytes(8, "big")])
    batches = []
    while socket.poll(3000):
        *_, seq, payload = socket.recv_multipart()
        if seq == END_OF_REPLAY:
            break
        batches.append(msgspec.msgpack.decode(payload))
    socket.close(linger=0)
    return batches


def held_by(server: Server) -> set[tuple[str, tuple[int, ...]]]:
    """Sets of (salt, token prefix) at the server's block boundaries that it holds now."""
    known: dict[int, tuple[str, tuple[int, ...]]] = {}
    copies: dict[int, int] = {}
    for _, events, *_ in batches_of(server):
        for event in events:
            if event["type"] == "BlockStored":
                parent = event["parent_block_hash"]
                salt = (event["extra_keys"][0] or [""])[0] if parent is None else known[parent][0]
                before = () if parent is None else known[parent][1]
                for index, name in enumerate(event["block_hashes"]):
                    first = index * BLOCK_TOKENS
                    before += tuple(event["token_ids"][first : first + BLOCK_TOKENS])
                    known[name] = (salt, before)
                    copies[name] = copies.get(name, 0) + 1
            elif event["type"] == "BlockRemoved":
                for name in event["block_hashes"]:
                    copies[name] -= 1
            else:
                copies.clear()
    held = {known[name] for name, count in copies.items() if count > 0}
    return {
        (salt, tokens)
        for salt, tokens in held
        if all(
            (salt, tokens[:end]) in held for end in range(BLOCK_TOKENS, len(tokens), BLOCK_TOKENS)
        )
    }


def expected_index(lab: Lab, at: int) -> Mapping[str, set[BlockHash]]:
    """What a peer's index must hold of its own engine, by tenant."""
    found: dict[str, set[BlockHash]] = {}
    held = held_by(lab.servers[at])
    node = lab.world.hosts[at].running
    prefix = node.ports.engine.capabilities().models[0].prefix
    for name in TENANTS:
        tenant = lab.tenant(at, name)
        chain = node.tenants.chain(tenant, prefix)
        salt = tenant.keys.salt.hex()
        found[name] = {each for of, tokens in held if of == salt for each in chain.hashes(tokens)}
    return found


def index_of(lab: Lab, at: int) -> Mapping[str, set[BlockHash]]:
    node = lab.world.hosts[at].running
    node.knowledge.fold()
    forest = node.knowledge.gossip.forest
    return {
        name: set(forest.tree(Namespace(lab.tenant(at, name).tenant_id))._blocks)
        for name in TENANTS
    }


async def test_two_vllm_servers_behind_two_peers(servers: tuple[Server, Server]) -> None:
    async with lab_of(servers) as lab:
        await shared_prefixes_are_found_from_both_sides(lab)
        await a_salt_keeps_tenants_apart(lab)
        await tools_pass_through_the_other_ingress(lab)
        await after_evictions_each_index_is_its_servers_cache(lab)
        await a_killed_server_costs_no_request(lab)


async def shared_prefixes_are_found_from_both_sides(lab: Lab) -> None:
    first = await lab.ask(0, "anna", document("Ashby") + "Which boats?")
    owner = lab.whose(first)
    assert first.cached < BLOCK_TOKENS * 2
    await published(lab, owner, "anna")
    for at in (0, 1):
        again = await lab.ask(at, "anna", document("Ashby") + f"Question {at}?")
        assert lab.whose(again) == owner, "the peer that has it answers, whoever is asked"
        assert again.cached >= 500


async def published(lab: Lab, owner: int, tenant: str) -> None:
    """The other peer knows everything that the owner's index holds of a tenant."""
    there = lab.world.hosts[owner]
    node = lab.world.hosts[1 - owner].running
    peer_id = there.identity.peer_id

    def known() -> bool:
        ends = there.running.knowledge.gossip.forest.tree(
            Namespace(lab.tenant(owner, tenant).tenant_id)
        ).digest
        return node.knowledge.prefixes(peer_id, lab.tenant(1 - owner, tenant)) == len(ends)

    await trio.sleep(1)  # the server's last frames
    await until(known, timeout_s=SETTLED_S)


async def a_salt_keeps_tenants_apart(lab: Lab) -> None:
    text = document("Brandon") + "How high?"
    mine = await lab.ask(0, "anna", text)
    again = await lab.ask(0, "anna", text)
    assert lab.whose(again) == lab.whose(mine)
    assert again.cached >= 500, "the same tenant hits"
    other = await lab.ask(0, "bert", text)
    assert other.cached == 0, "another tenant does not"
    assert (await lab.ask(0, "bert", text)).cached >= 500, "but it hits what is its own"


async def tools_pass_through_the_other_ingress(lab: Lab) -> None:
    tool = {
        "type": "function",
        "function": {
            "name": "tide",
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {"town": {"type": "string", "enum": ["Ely", "Frome"]}},
                "required": ["town"],
                "additionalProperties": False,
            },
        },
    }
    for at in (0, 1):
        answered = await lab.ask(
            at, "anna", "Tide at Ely?", tools=[tool], tool_choice="required",
            max_tokens=100,
        )  # fmt: skip
        calls = [
            call["function"]
            for chunk in answered.chunks
            for choice in chunk["choices"]
            for call in choice["delta"].get("tool_calls") or ()
        ]
        assert calls[0]["name"] == "tide"
        arguments = "".join(call.get("arguments") or "" for call in calls)
        print(arguments, answered.finished.reason)  # noqa: T201 - for who watches
        assert json.loads(arguments)["town"] in {"Ely", "Frome"}


async def after_evictions_each_index_is_its_servers_cache(lab: Lab) -> None:
    for town in TOWNS:
        for tenant, at in (("anna", 0), ("bert", 1)):
            await lab.ask(at, tenant, document(town) + "And then?")
    await trio.sleep(2)
    for at in (0, 1):
        events = [event for _, batch, *_ in batches_of(lab.servers[at]) for event in batch]
        if at == 0:
            assert any(event["type"] == "BlockRemoved" for event in events), "nothing was evicted"
        expected, found = expected_index(lab, at), index_of(lab, at)
        assert found == expected
        assert any(expected.values())
        print({name: len(blocks) for name, blocks in found.items()})  # noqa: T201 - for who watches


async def a_killed_server_costs_no_request(lab: Lab) -> None:
    victim, other = 1, 0
    answered: list[Answered | RequestError] = []

    async def client(number: int) -> None:
        try:
            text = document(TOWNS[number % 4]) + f"Case {number}?"
            answered.append(await lab.ask(number % 2, "anna", text, max_tokens=24))
        except RequestError as error:
            answered.append(error)

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(client, number)
        await trio.sleep(4)
        lab.servers[victim].kill()
    errors = [each for each in answered if isinstance(each, RequestError)]
    assert not errors, [error.code for error in errors]
    host = lab.world.hosts[victim]
    await until(lambda: not models_at(host), timeout_s=30)
    late = await lab.ask(victim, "anna", "Is anybody there?")
    assert lab.whose(late) == other
    assert not index_of(lab, victim)["anna"]
