"""Parts of live mode by themselves: orders, wrapped ports, agreement, landmarks, the death-pipe."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import trio

from chaos.errors import ChaosError
from chaos.faults.catalogue import FAULTS
from chaos.faults.fault import Mode, Network
from chaos.history import History, What
from chaos.modes.live import homes
from chaos.modes.live.actions import ACTIONS, NEED_ORDERS, action_of
from chaos.modes.live.cluster import LiveCluster, LiveHost, flags_of, make_cluster
from chaos.modes.live.loopback import Loopback
from chaos.modes.live.orders import (
    AnyOrder,
    CrashEngine,
    FillDisk,
    HoldDigest,
    Published,
    SetClock,
    SlowEngine,
    State,
    decode_order,
    encode,
)
from chaos.modes.live.process import NodeEnded, NodeProcess, start_node
from chaos.modes.live.tag import RunTag, free_block, new_tag
from chaos.modes.live.weather import usual_weather
from chaos.modes.live.witness import LiveWitness
from chaos.modes.live.wrapped import Wrapped, wrap
from chaos.scenario.scenario import Cluster, Expect, Limits
from chaos.scenario.schedule import PlannedFault, Schedule
from inference.toy import ToyConfig, ToyEngine
from overlay.errors import StorageFull
from overlay.ports import Ports
from overlay.system import SystemClock, SystemEntropy

PLAN = Cluster(nodes=2, tenants=("a",))
SCHEDULE = Schedule(
    name="parts",
    mode=Mode.LIVE,
    seed=1,
    cluster=PLAN,
    limits=Limits(),
    expect=Expect(),
    warm_up_s=0,
    duration_s=1,
    settle_s=0,
    core=(),
    requests=(),
)


# -- orders and wrapped ports


@pytest.mark.parametrize(
    "order",
    [
        SetClock(number=1, fault="f", ahead_s=-3.5),
        FillDisk(number=2, fault="f", full=True),
        HoldDigest(number=3, fault="f", stale=False),
        SlowEngine(number=4, fault="f", factor=2.0),
        CrashEngine(number=5, fault="f"),
    ],
)
def test_orders_arrive_as_they_were_sent(order: AnyOrder) -> None:
    assert decode_order(encode(order)) == order


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b'{"do":"disk","number":1,"fault":"f"}',
        b'{"do":"disk","number":1,"fault":"f","full":true,"more":1}',
        b'{"do":"slow","number":1,"fault":"f","factor":0.5}',
        b'{"do":"rm","number":1,"fault":"f"}',
    ],
)
def test_what_is_no_order_is_refused(line: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_order(line)


class Rows:
    """Storage that counts its batches."""

    def __init__(self) -> None:
        self.batches = 0

    def read(self, table: str) -> Mapping[bytes, bytes]:
        return {}

    def write(
        self, table: str, rows: Mapping[bytes, bytes | None], *, durable: bool = False
    ) -> None:
        self.batches += 1


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
def wrapped(rows: Rows) -> Wrapped:
    nothing: object = None
    ports = Ports(
        clock=SystemClock(),
        entropy=SystemEntropy(),
        transport=nothing,  # type: ignore[arg-type]  # not used here
        discovery=nothing,  # type: ignore[arg-type]
        storage=rows,
        engine=nothing,  # type: ignore[arg-type]
    )
    return wrap(ports, ToyEngine(ToyConfig()), in_thread=False)


def test_a_disk_is_full_until_every_fault_has_ended(wrapped: Wrapped, rows: Rows) -> None:
    storage = wrapped.ports.storage
    for fault in ("f", "g"):
        wrapped.carry_out(FillDisk(number=1, fault=fault, full=True))
    with pytest.raises(StorageFull):
        storage.write("t", {})
    assert wrapped.carry_out(FillDisk(number=2, fault="f", full=False)).effects == 1
    with pytest.raises(StorageFull):
        storage.write("t", {})
    assert wrapped.carry_out(FillDisk(number=3, fault="g", full=False)).effects == 2
    storage.write("t", {})
    assert rows.batches == 1


async def test_only_the_wall_clock_is_off(wrapped: Wrapped) -> None:
    right = SystemClock()
    for fault, ahead_s in (("f", 1000.0), ("g", 500.0)):
        wrapped.carry_out(SetClock(number=1, fault=fault, ahead_s=ahead_s))
    assert wrapped.ports.clock.unix_s() - right.unix_s() == pytest.approx(1500, abs=5)
    assert wrapped.ports.clock.now_s() - right.now_s() == pytest.approx(0, abs=5)
    wrapped.carry_out(SetClock(number=2, fault="f", ahead_s=0.0))
    assert wrapped.ports.clock.unix_s() - right.unix_s() == pytest.approx(500, abs=5)


def test_live_mode_can_do_exactly_what_the_catalogue_says() -> None:
    said = {fault for fault in FAULTS if Mode.LIVE in fault.modes}
    assert set(ACTIONS) == said
    assert said >= NEED_ORDERS


def unsupported(network: Network, *, plain_peers: bool = False) -> dict[str, str]:
    """Kinds of live mode that a cluster cannot have, and why."""
    cluster = Cluster(network=network, plain_peers=plain_peers)
    found = {}
    for fault in ACTIONS:
        action = action_of(PlannedFault(id="f", fault=fault(), at=0, for_s=1), cluster)
        if isinstance(action, str):
            found[fault.kind] = action
    return found


def test_what_needs_packets_or_bytes_is_unsupported_on_the_other_network() -> None:
    on_bytes, on_packets = unsupported(Network.LOOPBACK), unsupported(Network.NAMESPACES)
    assert set(on_bytes) == {"loss", "duplicate", "reorder", "corrupt", "mtu"}
    assert set(on_packets) == {"slice"}
    assert set(on_bytes.values()) == {'not possible with network = "loopback"'}
    plain = unsupported(Network.NAMESPACES, plain_peers=True)
    assert set(plain) == {"slice", *(fault.kind for fault in NEED_ORDERS)}


# -- the witness


def published(*tags: int) -> Published:
    return Published(len(tags), len(tags), ",".join(map(str, tags)))


def told(mine: Published, known: Mapping[str, Published], truth: tuple[int, int] = (0, 0)) -> State:
    return State(
        generation=1,
        mine={"A": mine},
        known=dict(known),
        truth={"A": truth},
        gauges={},
        evictions=0,
    )


class Runs:
    """A process that runs."""

    runs = True


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[LiveCluster, LiveWitness]]:
    """Two hosts that both run and whose states can be set; no process behind them."""
    tag = RunTag(tmp_path.name)
    founded = homes.found(PLAN, tmp_path)
    async with trio.open_nursery() as nursery:
        history = History(trio.current_time)
        network = Loopback(PLAN, free_block())
        cluster = await make_cluster(SCHEDULE, history, tag, founded, network, nursery)
        for host in cluster.hosts.values():
            host.process = Runs()  # type: ignore[assignment]
        yield cluster, LiveWitness(cluster, {"a": "A"})  # type: ignore[dict-item]
        nursery.cancel_scope.cancel()


def tell(host: LiveHost, state: State) -> None:
    host.state, host.state_s = state, trio.current_time()


def know(host: LiveHost, what: Published) -> dict[str, Published]:
    return {f"{host.peer_id}|A": what}


async def test_agreement_is_of_sets_and_of_what_is_true(
    pair: tuple[LiveCluster, LiveWitness],
) -> None:
    cluster, witness = pair
    one, two = cluster.hosts.values()
    asked_s = trio.current_time() - 1
    assert not witness.converged(asked_s)
    tell(one, told(published(1, 2), know(two, published(3))))
    tell(two, told(published(3), know(one, published(1, 2))))
    assert witness.converged(asked_s)
    assert not witness.converged(trio.current_time() + 1), "it was told before"
    tell(two, told(published(3), know(one, published(1, 4))))
    assert not witness.converged(asked_s), "as many, but others"
    tell(two, told(published(3), know(one, published(1, 2)), truth=(1, 0)))
    assert not witness.converged(asked_s), "a claim that is false"
    tell(two, told(published(3), {}))
    assert not witness.converged(asked_s), "nothing known"
    tell(one, told(published(), know(two, published(3))))
    assert witness.converged(asked_s), "nothing published"


@pytest.mark.parametrize(("delay_ms", "expected_s"), [(0.2, 0.0), (10.0, 0.0098)])
def test_a_cluster_whose_links_are_slow_has_weather_that_is(
    delay_ms: float, expected_s: float
) -> None:
    weather = usual_weather(replace(PLAN, delay_ms=delay_ms))
    assert set(weather) == {("n1", "n2"), ("n2", "n1")}
    for each in weather.values():
        assert each.delay_s() == pytest.approx(expected_s)


async def test_what_differs_in_the_end_is_written(pair: tuple[LiveCluster, LiveWitness]) -> None:
    cluster, witness = pair
    one, two = cluster.hosts.values()
    tell(one, told(published(1, 2), know(two, published(3))))
    tell(two, told(published(3), know(one, published(1)), truth=(0, 2)))
    witness.settled()
    (diverged,) = [event for _, event in cluster.history.of(What.DIVERGED)]
    assert (diverged.subject, diverged.data["origin"]) == (two.name, one.name)
    assert (diverged.data["missing"], diverged.data["extra"]) == (1, 0)
    claims = {event.subject: event.data for _, event in cluster.history.of(What.CLAIMS)}
    assert (claims[two.name]["phantom"], claims[two.name]["unpublished"]) == (0, 2)
    assert (claims[one.name]["phantom"], claims[one.name]["unpublished"]) == (0, 0)


# -- one process


@pytest.mark.processes
async def test_a_node_takes_orders_tells_of_itself_and_ends_with_its_input(tmp_path: Path) -> None:
    states: list[State] = []
    async with one_node(tmp_path, states) as node:
        done = await node.order(lambda number: FillDisk(number=number, fault="f", full=True))
        assert done.number == 1
        while not states:
            await trio.sleep(0.05)
        node.stop("pause")
        late = await in_the_end(node)
        assert late == 2
        assert node.process.stdin is not None
        await node.process.stdin.aclose()
        assert await node.process.wait() == 0
        with pytest.raises(NodeEnded):
            await node.order(lambda number: FillDisk(number=number, fault="f", full=False))


@pytest.mark.processes
async def test_an_order_to_a_node_that_is_killed_says_so(tmp_path: Path) -> None:
    async with one_node(tmp_path, []) as node:
        await node.order(lambda number: FillDisk(number=number, fault="f", full=False))
        node.stop("pause")

        async def kill_when_waited_for() -> None:
            while not node._waiting:
                await trio.lowlevel.checkpoint()
            node.kill()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill_when_waited_for)
            with pytest.raises(NodeEnded):
                await node.order(lambda number: FillDisk(number=number, fault="f", full=True))


@asynccontextmanager
async def one_node(folder: Path, states: list[State]) -> AsyncIterator[NodeProcess]:
    """A live node of an overlay of its own."""
    tag = new_tag()
    plan = Cluster(nodes=1, tenants=("a",))
    founded = homes.found(plan, folder)
    with trio.fail_after(90):
        async with trio.open_nursery() as nursery:
            network = Loopback(plan, free_block())
            await nursery.start(network.run)
            node = start_node(
                tag,
                founded.homes["n1"],
                flags_of(plan, network, "n1"),
                lambda told: states.append(told) if isinstance(told, State) else None,
            )
            nursery.start_soon(node.read_facts)
            try:
                yield node
            finally:
                node.kill()
                await node.gone()
            nursery.cancel_scope.cancel()


async def in_the_end(node: NodeProcess) -> int:
    """Orders a stopped node, and lets it go on when the order waits."""

    async def let_go() -> None:
        while not node._waiting:
            await trio.lowlevel.checkpoint()
        node.go_on("another")
        assert node.stopped
        node.go_on("pause")
        assert not node.stopped

    async with trio.open_nursery() as nursery:
        nursery.start_soon(let_go)
        done = await node.order(lambda number: FillDisk(number=number, fault="f", full=False))
    return done.number


async def test_a_plain_peer_takes_no_orders(tmp_path: Path) -> None:
    process = await trio.lowlevel.open_process(["true"])
    plain = NodeProcess(process, None, lambda _: None, tmp_path / "log")
    with pytest.raises(ChaosError, match="takes no orders"):
        await plain.order(lambda number: CrashEngine(number=number, fault="f"))
    await process.wait()
