"""What three idle peers of two tenants cost: bytes sent (TLS included) and CPU, per peer.

`python -m benchmarks.idle [--quick]`
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import trio

from benchmarks.processes import cpu_s
from overlay.demo.cluster import Cluster, PeerProcess, running_cluster

SETTLE_S = 10.0
FLAGS = ("--engine", "toy", "--log-level", "warning")


async def sent_bytes(peer: PeerProcess) -> int:
    """Bytes that a peer has written to its connections with other peers."""
    return (await peer.status()).sent_bytes


async def measure(cluster: Cluster, seconds: float) -> None:
    await trio.sleep(SETTLE_S)
    before = [(await sent_bytes(peer), cpu_s(peer.pids[-1])) for peer in cluster.peers]
    began_s = trio.current_time()
    await trio.sleep(seconds)
    took_s = trio.current_time() - began_s
    print(f"three idle peers, two tenants, {took_s:.0f} s")
    for peer, (bytes_before, cpu_before) in zip(cluster.peers, before, strict=True):
        rate = (await sent_bytes(peer) - bytes_before) / took_s
        core = 100 * (cpu_s(peer.pids[-1]) - cpu_before) / took_s
        print(
            f"  {peer.name}: {rate:7.0f} B/s sent (target 2,000), "
            f"{core:5.2f} % of a core (target 0.5)"
        )


async def main(seconds: float) -> None:
    with tempfile.TemporaryDirectory(prefix="rhizome-bench-") as folder:
        async with running_cluster(Path(folder), ("a", "b", "c"), ("one", "two")) as cluster:
            await cluster.create()
            await cluster.start(*FLAGS)
            await measure(cluster, seconds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="15 seconds instead of 60")
    trio.run(main, 15.0 if parser.parse_args().quick else 60.0)
