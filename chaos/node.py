"""``python -m chaos.node``: a real peer with wrapped ports, run by the harness in live mode.

Everything is that of ``rhizome peer`` (TLS, disk, mDNS, faces) but for what can be ordered: a wall
clock that is off, a disk that is full, a digest that stands still, an engine that is slow or
breaks. It takes orders on its standard input, tells facts on a pipe, and ends with its input.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace

import click
import trio

from chaos.modes.live.hearing import listen_to, listen_to_engine
from chaos.modes.live.orders import LINE_BYTES_MAX, Fact, decode_order, encode
from chaos.modes.live.process import FACTS
from chaos.modes.live.state import StateTap
from chaos.modes.live.wrapped import Wrapped, wrap
from inference.none import no_engine
from overlay.choices import LogFormat
from overlay.commands.options import existing_home, home_option
from overlay.commands.peer import make_node_config, make_ports, say_progress, watch_signals
from overlay.config import PeerConfig, config_options, load_config
from overlay.discovery.interfaces import choose, list_interfaces
from overlay.engines import computes, make_core
from overlay.faces import Faces
from overlay.home import Home
from overlay.identity import Identity, load_identity
from overlay.logs import configure_logging
from overlay.node import Node

STATE_EVERY_S = 0.5


@click.command("chaos.node")
@config_options()
@home_option
def command(home: str | None, flags: Mapping[str, object]) -> None:
    """Run a peer that the chaos harness can give orders to; the harness starts it.

    \b
    Example: python -m chaos.node --home /tmp/h --interface lo --engine toy
    """  # noqa: D301 - click's mark
    if FACTS not in os.environ:
        raise click.UsageError("this is started by 'rhizome chaos run' in live mode")
    folder = existing_home(home)
    config = load_config(folder.config_path, flags)
    configure_logging(as_json=config.log is LogFormat.JSON, level=config.log_level.value)
    identity = load_identity(folder)
    with folder.locked():
        trio.run(serve, folder, config, identity)


async def serve(home: Home, config: PeerConfig, identity: Identity) -> None:
    """Runs the node under signals and orders."""
    async with trio.open_nursery() as nursery:
        stop = trio.Event()
        await nursery.start(watch_signals, nursery.cancel_scope, stop)
        interfaces = list(choose(list_interfaces(), config.interfaces))
        core = make_core(config, say_progress())
        state = StateTap(core)
        ports = make_ports(home, config, identity, interfaces, no_engine())
        wrapped = wrap(ports, state.core, in_thread=computes(config))
        # The harness reads facts at once, and nothing of a node may wait for it.
        tell, told = trio.open_memory_channel[Fact](math.inf)
        tapped = replace(
            wrapped.ports, engine=listen_to_engine(wrapped.ports.engine, tell.send_nowait)
        )
        node = Node(make_node_config(home, config, identity, interfaces), tapped)
        listen_to(node, tell.send_nowait)
        nursery.start_soon(write_facts, told)
        nursery.start_soon(take_orders, wrapped, tell, nursery.cancel_scope)
        nursery.start_soon(tell_states, state, node, tell)
        await node.run([Faces(home, config, interfaces, stop).serve])
        nursery.cancel_scope.cancel()


async def take_orders(
    wrapped: Wrapped, tell: trio.MemorySendChannel[Fact], scope: trio.CancelScope
) -> None:
    """Carries orders out until the harness is gone; then the node ends at once."""
    waiting = b""
    async with trio.lowlevel.FdStream(os.dup(0)) as orders:
        while len(waiting) <= LINE_BYTES_MAX and (data := await orders.receive_some()):
            *lines, waiting = (waiting + data).split(b"\n")
            for line in lines:
                await tell.send(wrapped.carry_out(decode_order(line)))
    scope.cancel()


async def tell_states(state: StateTap, node: Node, tell: trio.MemorySendChannel[Fact]) -> None:
    """Tells what the node publishes and knows, again and again."""
    while True:
        await trio.sleep(STATE_EVERY_S)
        await tell.send(state.of(node))


async def write_facts(told: trio.MemoryReceiveChannel[Fact]) -> None:
    """Writes facts out, one a line."""
    async with trio.lowlevel.FdStream(int(os.environ[FACTS])) as facts:
        async for fact in told:
            await facts.send_all(encode(fact) + b"\n")


if __name__ == "__main__":
    command()
