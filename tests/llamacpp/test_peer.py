"""A real llama.cpp server behind a peer: prompts read by it, its cache estimated and corrected.

Needs the server (``make test-llamacpp`` builds it, five minutes) and the packaged model.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from chaos.world import World, until, world_of
from inference.remote.engine import RemoteEngine
from inference.remote.pictures import picture_of
from inference.remote.settings import RemoteKind, RemoteSettings
from inference.store.package import packaged_file
from overlay.ingress import IngressLimits
from overlay.request import Delta, Finished
from overlay.system import SystemEntropy

pytestmark = pytest.mark.llamacpp

SERVER = Path(__file__).resolve().parent.parent.parent / ".llama-server" / "llama-server"
START_S = 60.0
CONTEXT_TOKENS = 2048
SLOTS = 2
TEXT = "The keeper of the tides writes down when the water comes and how high it stands. " * 20


@asynccontextmanager
async def llama_server(model: Path) -> AsyncIterator[str]:
    """A server that is up, and its URL; it is gone when the block is left."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = (
        *("--model", str(model), "--host", "127.0.0.1", "--port", str(port)),
        *("--ctx-size", str(SLOTS * CONTEXT_TOKENS), "--parallel", str(SLOTS)),
        # Some processors with AMX crash with repacked weights.
        *("--threads", "1", "--no-repack", "--metrics", "--no-webui"),
    )
    process = await trio.lowlevel.open_process(
        [str(SERVER), *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def ask(world: World, text: str, **fields: Any) -> tuple[str, Finished]:
    """One chat at the first host: its text, and its end."""
    body = {
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 8,
        "temperature": 0,
        **fields,
    }
    events = await world.ask_body(world.hosts[0], body)
    (finished,) = [event for event in events if isinstance(event, Finished)]
    return "".join(event.text for event in events if isinstance(event, Delta)), finished


async def test_a_llama_server_behind_a_peer() -> None:
    model = packaged_file()
    if not SERVER.exists() or model is None:
        pytest.skip("llama-server or the packaged model is not there: make test-llamacpp")
    async with llama_server(model) as url:
        settings = RemoteSettings(kind=RemoteKind.LLAMACPP, url=url)

        def engine() -> RemoteEngine:
            return RemoteEngine(settings, picture_of, secret=SystemEntropy().secret)

        limits = IngressLimits(budget_s=2.0, silence_s=15.0)
        async with world_of(92, [engine], ingress=limits) as world:
            node = world.hosts[0].running
            await until(lambda: node.ports.engine.capabilities().models, timeout_s=START_S)
            capabilities = node.ports.engine.capabilities()
            (served,) = capabilities.models
            assert (capabilities.slots, capabilities.salts) == (SLOTS, False)
            assert served.context_tokens == CONTEXT_TOKENS
            assert served.estimated
            assert not served.by_text, "it has /tokenize and /apply-template"

            cold_text, cold = await ask(world, TEXT + "When?", stream=True)
            assert cold.usage.cached_tokens < 64
            await until(lambda: node.knowledge.fold() or len(tree_of(world)) > 16)
            warm_text, warm = await ask(world, TEXT + "How high?", stream=True)
            assert warm.usage.cached_tokens >= 300
            assert warm.usage.prompt_tokens > warm.usage.cached_tokens
            again_text, again = await ask(world, TEXT + "When?", stream=False)
            assert again.usage.completion_tokens == 8
            assert all((cold_text, warm_text, again_text))
            explained = node.decisions.last(None)
            assert explained is not None
            assert explained.routes[0].basis.value == "tokens"
            (candidate,) = explained.routes[0].decision.candidates
            assert candidate.view.estimated
            assert candidate.matched_tokens >= 300
            lines = dict(node.ports.engine.posture())
            print(lines)  # noqa: T201 - for who watches
            assert "estimated" in lines["cache"]
            assert "no request has told" not in lines["calibration"]


def tree_of(world: World) -> Any:
    """What the host's index holds of its own engine."""
    node = world.hosts[0].running
    (tree,) = node.knowledge.gossip.forest._trees.values()
    return tree
