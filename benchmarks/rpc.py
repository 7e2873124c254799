"""What a call between two peers costs: TCP and mutual TLS 1.3 on loopback, one process a side.

    python benchmarks/rpc.py [--quick] [--json]

"Per core-second" divides by the CPU seconds of both processes together. A call is a new stream, a
100-byte request, a 100-byte reply and the stream's end.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from chaos.entropy import SeededEntropy
from overlay.address import Address
from overlay.errors import Deadline
from overlay.ports import SecureChannel
from overlay.system import SystemClock, SystemEntropy
from overlay.transport.connection import Connection
from overlay.transport.hello import Hello, Role
from overlay.transport.limits import Limits
from overlay.transport.link import establish
from overlay.transport.stream import Stream
from overlay.transport.tcp import TlsTransport
from overlay.transport.tls import Credentials
from security.certificate import issue_leaf, make_issuer, make_root, overlay_id_of, parse_leaf
from security.judge import judge_leaf
from security.keys import HostKeys
from security.peer_id import PeerId
from security.revocation import RevocationSet

BODY = b"x" * 100
CALLERS = 32
CANCELLED_EVERY_S = (0.00002, 0.002)


def credentials(name: str) -> Credentials:
    """The same overlay in both processes: everything follows from a seed."""
    entropy = SeededEntropy(1, "overlay")
    day_s = SystemClock().unix_s() // 86_400 * 86_400
    root = make_root(entropy.secret, day_s)
    issuer = make_issuer(root, entropy.secret, day_s)
    own = SeededEntropy(1, name)
    keys = HostKeys.generate(own.secret)
    leaf = issue_leaf(issuer, keys.peer_id, own.secret, day_s)
    return Credentials(keys=keys, leaf=leaf, issuer=issuer.der, roots=(root.der,))


async def connection_of(
    channel: SecureChannel, mine: Credentials, expected: PeerId | None
) -> Connection:
    """A connection as the node makes it."""
    overlay_id = overlay_id_of(mine.roots[0])
    clock = SystemClock()
    limits = Limits()
    hello = Hello(
        role=Role.PEER,
        overlay_id=overlay_id,
        peer_id=mine.keys.peer_id,
        generation=1,
        boot_salt=bytes(16),
        windows=limits.windows,
        revocations_digest=bytes(16),
        unix_s=clock.unix_s(),
    )

    def judge(leaf: bytes, expected: PeerId | None) -> PeerId:
        return judge_leaf(
            parse_leaf(leaf),
            now_unix_s=clock.unix_s(),
            revocations=RevocationSet(),
            overlay_id=overlay_id,
            expected=expected,
            key=None,
        )

    return await establish(
        channel,
        ours=hello,
        judge=judge,
        expected=expected,
        clock=clock,
        entropy=SystemEntropy(),
        limits=limits,
    )


def cpu_s() -> float:
    """CPU seconds of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def echo(_: Connection, stream: Stream) -> None:
    """One message back."""
    await stream.send(stream.body)


async def cpu(_: Connection, stream: Stream) -> None:
    """The serving process's CPU seconds."""
    await stream.send(repr(cpu_s()).encode())


async def sink(_: Connection, stream: Stream) -> None:
    """Takes everything."""
    while await stream.receive() is not None:
        pass


async def pour(_: Connection, stream: Stream) -> None:
    """Sends as many small messages as asked."""
    for _number in range(int(stream.body)):
        await stream.send(BODY[:60])


async def serve() -> None:
    """The serving process: prints its port, serves until killed."""
    mine = credentials("server")
    handlers = {"/echo": echo, "/cpu": cpu, "/sink": sink, "/pour": pour}

    async def accept(channel: SecureChannel) -> None:
        connection = await connection_of(channel, mine, None)
        await connection.run(handlers)

    async with trio.open_nursery() as nursery:
        bound = await nursery.start(TlsTransport(mine).listen, [Address("127.0.0.1", 0)], accept)
        print(bound[0].port, flush=True)


@dataclass
class Bench:
    """The calling side."""

    transport: TlsTransport
    mine: Credentials
    server: PeerId
    address: Address

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Connection]:
        """A connection to the serving process."""
        channel = await self.transport.dial(self.address, self.server)
        connection = await connection_of(channel, self.mine, self.server)
        async with trio.open_nursery() as nursery:
            await nursery.start(connection.run, {})
            yield connection
            await connection.aclose(0, "done")

    async def spent(self, connection: Connection) -> tuple[float, float]:
        """CPU seconds of the calling and the serving process."""
        return cpu_s(), float(await connection.call("/cpu", b"", timeout_s=5))


async def callers(connection: Connection, count: int, callers_count: int) -> list[float]:
    """Makes ``count`` calls, so many at a time; gives their times."""
    times: list[float] = []
    left = count

    async def caller() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            began_s = time.perf_counter()
            await connection.call("/echo", BODY, timeout_s=10)
            times.append(time.perf_counter() - began_s)

    async with trio.open_nursery() as nursery:
        for _ in range(callers_count):
            nursery.start_soon(caller)
    return sorted(times)


async def measure_calls(bench: Bench, count: int, callers_count: int) -> dict[str, float]:
    """Calls per core-second and their times."""
    async with bench.connected() as connection:
        await callers(connection, min(count, 2000), callers_count)
        before, began_s = await bench.spent(connection), time.perf_counter()
        times = await callers(connection, count, callers_count)
        wall_s, after = time.perf_counter() - began_s, await bench.spent(connection)
    ours_s, theirs_s = (b - a for a, b in zip(before, after, strict=True))
    return {
        "calls_per_core_s": count / (ours_s + theirs_s),
        "calls_per_s": count / wall_s,
        "caller_us_per_call": 1e6 * ours_s / count,
        "server_us_per_call": 1e6 * theirs_s / count,
        "p50_us": 1e6 * times[len(times) // 2],
        "p99_us": 1e6 * times[len(times) * 99 // 100],
    }


async def measure_connect(bench: Bench, count: int) -> dict[str, float]:
    """Dial, handshake and HELLO, until a call could be made."""
    times = []
    for _ in range(count):
        began_s = time.perf_counter()
        async with bench.connected():
            times.append(time.perf_counter() - began_s)
    times.sort()
    return {"p50_ms": 1e3 * times[count // 2], "p99_ms": 1e3 * times[count * 99 // 100]}


async def measure_cancellations(bench: Bench, count: int) -> dict[str, float]:
    """Calls with random deadlines, 8 at a time, until enough were cancelled; then plain ones."""
    rng = random.Random(7)
    cancelled = made = 0

    async with bench.connected() as connection:

        async def caller() -> None:
            nonlocal cancelled, made
            while cancelled < count:
                made += 1
                with trio.move_on_after(rng.uniform(*CANCELLED_EVERY_S)) as scope:
                    await connection.call("/echo", BODY, timeout_s=10)
                cancelled += scope.cancelled_caught

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(caller)
        failures = 0
        for _ in range(200):
            try:
                failures += await connection.call("/echo", BODY, timeout_s=2) != BODY
            except Deadline:
                failures += 1
        left = connection.statistics().streams_open
    return {"made": made, "cancelled": cancelled, "failures_after": failures, "streams_left": left}


async def measure_bulk(bench: Bench, megabytes: int) -> dict[str, float]:
    """Large messages one way."""
    message = bytes(1 << 18)
    async with bench.connected() as connection:
        before, began_s = await bench.spent(connection), time.perf_counter()
        async with connection.open("/sink", b"") as stream:
            for _ in range(megabytes * 4):
                await stream.send(message)
            await stream.finish()
            await stream.receive()
        wall_s, after = time.perf_counter() - began_s, await bench.spent(connection)
    spent_s = sum(after) - sum(before)
    size = megabytes * (1 << 20) / 1e6
    return {"mb_per_s": size / wall_s, "mb_per_core_s": size / spent_s}


async def measure_tokens(bench: Bench, count: int) -> dict[str, float]:
    """Small messages on one stream."""
    async with bench.connected() as connection:
        began_s = time.perf_counter()
        async with connection.open("/pour", str(count).encode()) as stream:
            while await stream.receive() is not None:
                pass
        return {"messages_per_s": count / (time.perf_counter() - began_s)}


async def run(port: int, *, quick: bool, as_json: bool) -> None:
    """Every measurement, printed as it comes."""
    mine = credentials("client")
    server = credentials("server").keys.peer_id
    bench = Bench(TlsTransport(mine), mine, server, Address("127.0.0.1", port))
    share = 10 if quick else 1
    steps: dict[str, Callable[[], object]] = {
        f"calls, {CALLERS} callers": lambda: measure_calls(bench, 60_000 // share, CALLERS),
        "calls, 1 caller": lambda: measure_calls(bench, 10_000 // share, 1),
        "connect": lambda: measure_connect(bench, 100 // share),
        "cancellations": lambda: measure_cancellations(bench, 10_000 // share),
        "bulk": lambda: measure_bulk(bench, 200 // share),
        "token messages": lambda: measure_tokens(bench, 100_000 // share),
    }
    results = {}
    for name, step in steps.items():
        results[name] = await step()  # type: ignore[misc]  # each step is a coroutine function
        if not as_json:
            figures = "  ".join(f"{key} {value:,.1f}" for key, value in results[name].items())
            print(f"{name:20} {figures}", flush=True)
    if as_json:
        print(json.dumps(results, indent=2))


def main() -> None:
    """Starts the serving process, measures, stops it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        trio.run(serve)
        return
    with subprocess.Popen(
        [sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            port = int(server.stdout.readline()) if server.stdout else 0
            trio.run(lambda: run(port, quick=options.quick, as_json=options.json))
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
