"""One small scenario as a program: ``python -m tests.simulation.scenario SEED`` prints its trace.

Two processes that run one seed must print the same, whatever Python's hash seed is.
"""

from __future__ import annotations

import sys

import trio

from chaos.simulation import run_simulation
from chaos.world import until, world_of
from inference.toy import ToyConfig

TOY = ToyConfig(slots=2, prefill_tokens_per_s=1000.0, decode_s_per_token=0.02, end_every=0)
DOCUMENT = "The river Lanner rises on Mount Ashby and flows north to the sea. " * 8


async def scenario(seed: int) -> tuple[str, int, int]:
    """Requests at all hosts, a silence, a death and a new start.

    Returns:
        The digest of the trace, its events and the chunks on the network.
    """
    async with world_of(seed, [TOY] * 3, tenants=("default", "other")) as world:
        a, b, c = world.hosts
        await until(lambda: all(len(h.running.peers.up()) == 2 for h in world.hosts))
        for number, host in enumerate((a, b, c)):
            await world.ask(host, DOCUMENT + f"Question {number}?")
            await world.ask(host, f"{number} " * 50, tenant="other")
        await trio.sleep(10.0)
        world.network.freeze(b.name)
        await world.ask(a, DOCUMENT + "What now?")
        world.network.thaw(b.name)
        world.kill(c)
        await world.ask(b, DOCUMENT + "And now?")
        await until(lambda: c.node is None)
        await world.start(c)
        await trio.sleep(20.0)
        await world.ask(c, DOCUMENT + "Once more?")
        return world.trace.digest(), len(world.trace.events), world.trace.chunks


def main() -> None:
    """Runs the seed of the command line."""
    seed = int(sys.argv[1])
    print(*run_simulation(seed, lambda: scenario(seed)))  # noqa: T201 - its output


if __name__ == "__main__":
    main()
