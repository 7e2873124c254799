"""What it costs to go through a peer that forwards: added latency, requests per core-second.

Two real peers on loopback with the toy engine in no time at all. The same 512-token request is
answered by the serving peer itself and through the other one, alternately in one run, so that a
noisy machine hits both alike. `python -m benchmarks.router [--quick]`
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import trio

from benchmarks.processes import cpu_s
from inference.request import ChatPrompt, Message
from inference.toy_language import encode
from overlay.client import PeerClient
from overlay.demo.cluster import Cluster, running_cluster
from overlay.request import Finished

TENANT = "default"
PROMPT_TOKENS = 512
CALLERS = 32
SERVING = (
    "--engine",
    "toy",
    "--toy-prefill-tokens-per-s",
    "1000000000",
    "--toy-decode",
    "0s",
    "--toy-slots",
    "64",
    "--queue-max",
    "1000",
    "--log-level",
    "warning",
)
FORWARDING = (
    "--engine",
    "toy",
    "--toy-prefill-tokens-per-s",
    "1",
    "--toy-decode",
    "10s",
    "--toy-slots",
    "1",
    "--forward-budget",
    "5s",
    "--log-level",
    "warning",
)
"""It would take minutes for what the other one does at once, so that all is forwarded; and it waits
longer for ACCEPT than a LAN needs, since both peers and all callers share the cores here."""


WORDS = ("page", "part", "people", "place", "point", "right", "said", "same", "state", "still")
"""In the toy engine's vocabulary, so that tokenising takes little; what it takes is printed."""


async def ask(client: PeerClient, prompt: str) -> Finished:
    """One request of one answer token; where and how it ended."""
    finished = None
    messages = [{"role": "user", "content": prompt}]
    async for event in client.chat(messages, max_tokens=1, temperature=0):
        if isinstance(event, Finished):
            finished = event
    assert finished is not None
    return finished


async def measure(cluster: Cluster, requests: int, load_requests: int) -> None:
    forwarding, serving = cluster.peers
    prompt = prompt_of(PROMPT_TOKENS)
    async with (
        PeerClient.connect(home=serving.home, tenant=TENANT) as direct,
        PeerClient.connect(home=forwarding.home, tenant=TENANT) as through,
    ):
        for _ in range(50):
            await ask(direct, prompt)
        with trio.fail_after(30):
            while (await ask(through, prompt)).served_by != serving.peer_id:
                await trio.sleep(0.1)
        took: dict[str, list[float]] = {"direct": [], "through": []}
        hops = 0
        for _ in range(requests):
            for name, client in (("direct", direct), ("through", through)):
                began_s = trio.current_time()
                finished = await ask(client, prompt)
                took[name].append(trio.current_time() - began_s)
                hops += finished.hops
        direct_us, through_us = (statistics.median(took[n]) * 1e6 for n in ("direct", "through"))
        print(
            f"prompt of {finished.usage.prompt_tokens} tokens, {requests} pairs, {hops} forwarded"
        )
        print(f"p50 answered by the peer itself   {direct_us:8.0f} us")
        print(f"p50 through a peer that forwards  {through_us:8.0f} us")
        print(f"added latency                     {through_us - direct_us:8.0f} us   (target 400)")
        print(f"tokenising, in both of them       {tokenising_us(prompt):8.0f} us")
        await load(cluster, through, prompt, load_requests)


async def load(cluster: Cluster, through: PeerClient, prompt: str, requests: int) -> None:
    forwarding = cluster.peers[0]
    assert forwarding.process is not None
    left = iter(range(requests))
    before_s, began_s = cpu_s(forwarding.process.pid), trio.current_time()

    async def caller() -> None:
        for _ in left:
            await ask(through, prompt)

    async with trio.open_nursery() as nursery:
        for _ in range(CALLERS):
            nursery.start_soon(caller)
    used_s = cpu_s(forwarding.process.pid) - before_s
    took_s = trio.current_time() - began_s
    print(
        f"{CALLERS} callers: {requests} requests in {took_s:.2f} s, ingress used {used_s:.2f} s CPU"
    )
    print(f"requests per core-second of the ingress {requests / used_s:8.0f}   (target 2,000)")


def prompt_of(tokens: int) -> str:
    """A text whose rendered prompt has about so many tokens of the toy engine."""
    overhead = len(encode(chat("")))
    return " ".join(WORDS[number * 7 % len(WORDS)] for number in range(tokens - overhead - 1))


def tokenising_us(prompt: str, runs: int = 200) -> float:
    """What the toy engine's tokenizer takes for a prompt."""
    took = []
    for _ in range(runs):
        began_s = time.perf_counter()
        encode(chat(prompt))
        took.append(time.perf_counter() - began_s)
    return statistics.median(took) * 1e6


def chat(text: str) -> ChatPrompt:
    """A prompt of one message."""
    return ChatPrompt(messages=(Message(role="user", content=text),))


async def main(requests: int, load_requests: int) -> None:
    with tempfile.TemporaryDirectory(prefix="rhizome-bench-") as folder:
        async with running_cluster(Path(folder), ("forwarding", "serving"), (TENANT,)) as cluster:
            await cluster.create()
            await cluster.start_peer(cluster.peers[0], *FORWARDING)
            await cluster.start_peer(cluster.peers[1], *SERVING)
            for peer in cluster.peers:
                await cluster.ready(peer)
            await cluster.met()
            await measure(cluster, requests, load_requests)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the requests")
    quick = parser.parse_args().quick
    trio.run(main, 200 if quick else 2000, 1000 if quick else 10000)
