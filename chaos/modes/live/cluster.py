"""Live nodes, and how they come and go."""

from __future__ import annotations

import shutil
import signal
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import trio

from chaos.history import History, What
from chaos.modes.live.homes import Founded
from chaos.modes.live.network import LiveNetwork
from chaos.modes.live.orders import Accepted, Sealed, Served, State, Told
from chaos.modes.live.process import NodeProcess, start_node, start_plain
from chaos.modes.live.tag import RunTag
from chaos.scenario.scenario import Cluster
from chaos.scenario.schedule import Schedule
from overlay.control.client import call
from overlay.control.messages import GetStatus, StatusReply
from overlay.errors import OverlayError
from overlay.home import Home
from security.peer_id import PeerId

START_S = 60.0
MODEL_START_S = 300.0
"""Loading a model, and converting it the first time."""

STATUS_S = 5.0
POLL_S = 0.1
VAIN_STARTS_MAX = 3
"""After so many starts in a row without an answer, a node is not started again by itself."""

SNAPSHOT_EVERY_S = 2.0
SNAPSHOTS_MAX = 64


@dataclass(eq=False)
class LiveHost:
    """One node: what outlives its processes, and the present one.

    ``up`` says that the present process has answered. ``holds`` are keys of what keeps it down.
    """

    name: str
    home: Path
    peer_id: PeerId
    process: NodeProcess | None = None
    state: State | None = None
    state_s: float = 0.0
    up: bool = False
    starts: int = 0
    vain_starts: int = 0
    down: str = "not started"
    holds: set[str] = field(default_factory=set)
    snapshots: list[tuple[float, Path]] = field(default_factory=list)
    snapshots_taken: int = 0
    untold: list[Accepted] = field(default_factory=list)
    noted: trio.Event = field(default_factory=trio.Event)
    """Set once all that the present process said is read and its end is written down."""

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.runs

    @property
    def stopped(self) -> bool:
        return self.process is not None and bool(self.process.stopped)


@dataclass(eq=False)
class LiveCluster:
    """All of one run. ``tenants`` are names by id, ``requests`` names by the peers' own ids."""

    schedule: Schedule
    history: History
    tag: RunTag
    nursery: trio.Nursery
    hosts: dict[str, LiveHost]
    network: LiveNetwork
    tenants: Mapping[str, str] = field(default_factory=dict)
    requests: dict[str, str] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    closing: bool = False

    def name_of(self, peer_id: PeerId) -> str:
        """The node with this identity; the peer id itself where none has it."""
        names = (host.name for host in self.hosts.values() if host.peer_id == peer_id)
        return next(names, peer_id)

    def core(self) -> list[LiveHost]:
        """Hosts that healing makes whole."""
        names = self.schedule.core or self.schedule.cluster.names
        return [self.hosts[name] for name in names]

    # -- coming and going

    async def start(self, name: str, why: str) -> bool:
        """Starts a node and waits until it answers; one that is held down is left as it is.

        Returns:
            Whether it runs.
        """
        host = self.hosts[name]
        if host.process is not None or host.holds or self.closing:
            return host.runs
        # Nothing is awaited until the host has its process, so that nobody starts a second one.
        host.starts += 1
        host.state, host.down, host.noted = None, "", trio.Event()
        host.untold.clear()
        boot = host.starts
        flags = flags_of(self.schedule.cluster, self.network, name)
        with self.network.inside(name):
            if self.schedule.cluster.plain_peers:
                process = start_plain(self.tag, host.home, flags)
            else:
                process = start_node(
                    self.tag, host.home, flags, lambda told: self._heard(host, boot, told)
                )
        host.process = process
        self.nursery.start_soon(self._mind, host, process, host.noted)
        status = await self._answers(host, process)
        if status is None or host.process is not process:
            host.vain_starts += not host.holds
            return False
        host.up, host.vain_starts = True, 0
        self.history.add(What.NODE_UP, name, generation=status.generation, why=why)
        for accepted in host.untold:
            self._accepted(host, accepted)
        return True

    def _heard(self, host: LiveHost, boot: int, told: Told) -> None:
        """What a node says of itself; of a killed one, the last of it is still to be read."""
        if isinstance(told, Served):
            self._served(host, told)
        elif isinstance(told, Sealed):
            self.history.add(What.SEALED, host.name, key=told.key, counter=told.counter)
        elif boot != host.starts or host.process is None:
            return
        elif isinstance(told, State):
            host.state, host.state_s = told, trio.current_time()
        elif host.up:
            self._accepted(host, told)
        else:
            # What it accepts while it comes up is of this boot, and comes after its NODE_UP.
            host.untold.append(told)

    def _served(self, host: LiveHost, told: Served) -> None:
        self.history.add(
            What.SERVED,
            host.name,
            request=self.requests.get(told.request, told.request),
            tenant=self.tenants.get(told.tenant, told.tenant),
            prompt_tokens=told.prompt_tokens,
            cached_tokens=told.cached_tokens,
            explained_tokens=told.explained_tokens,
        )

    def _accepted(self, host: LiveHost, told: Accepted) -> None:
        self.history.add(
            What.ACCEPTED,
            host.name,
            origin=self.name_of(PeerId(told.origin)),
            identity=1,
            object=told.object,
            generation=told.generation,
            seq=told.seq,
            stream=told.stream,
            sender="a peer",
            genuine=None,
        )

    async def _answers(self, host: LiveHost, process: NodeProcess) -> StatusReply | None:
        start_s = START_S if self.schedule.cluster.engine == "toy" else MODEL_START_S
        noted = host.noted
        with trio.move_on_after(start_s):
            while process.runs:
                with suppress(OverlayError, OSError, trio.TooSlowError):
                    with trio.fail_after(STATUS_S):
                        return await call(Home(host.home), GetStatus(), StatusReply)
                await trio.sleep(POLL_S)
            await noted.wait()
        if process.runs and not process.stopped:
            self._stuck(host, "it did not answer after its start", process, for_s=start_s)
            process.kill()
        return None

    def _stuck(self, host: LiveHost, why: str, process: NodeProcess, for_s: float = 0.0) -> None:
        self.broken.append(f"{host.name}: {why}: {process.last_words()}")
        self.history.add(What.STUCK, host.name, why=why, for_s=for_s)

    async def _mind(self, host: LiveHost, process: NodeProcess, noted: trio.Event) -> None:
        """Reads what a node tells, and notes its end where nobody asked for it."""
        try:
            await self._read_to_end(host, process)
        finally:
            noted.set()

    async def _read_to_end(self, host: LiveHost, process: NodeProcess) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await process.read_facts()
        await process.process.wait()
        if process.process.stdin is not None:
            await process.process.stdin.aclose()
        if host.process is not process or host.down == "left":
            return
        self._gone(host)
        code = process.process.returncode
        host.down = f"ended with {code}"
        self._stuck(host, f"the peer ended by itself, with exit status {code}", process)
        self.history.add(What.NODE_DOWN, host.name, why=host.down)

    def _gone(self, host: LiveHost) -> None:
        host.process, host.up = None, False

    async def kill(self, name: str, why: str) -> bool:
        """SIGKILL; returns whether there was a process."""
        host = self.hosts[name]
        process = host.process
        if process is None or not process.runs:
            return False
        self._gone(host)
        host.down = why
        process.kill()
        self.history.add(What.NODE_DOWN, name, why=why)
        await process.gone()
        return True

    async def end(self) -> None:
        """SIGKILL to whatever runs; nothing is started any more."""
        self.closing = True
        processes = [host.process for host in self.hosts.values() if host.process is not None]
        for host in self.hosts.values():
            self._gone(host)
        for process in processes:
            process.kill()
        for process in processes:
            await process.gone()

    async def leave(self, name: str, grace_s: float) -> None:
        """SIGTERM; writes STOPPED, or STUCK where it has not ended in time."""
        host = self.hosts[name]
        process = host.process
        if process is None or not process.runs:
            return
        if not host.up:
            # It is still coming up, and heeds no signal yet.
            await self.kill(name, "the run is over")
            return
        host.down = "left"
        began_s = trio.current_time()
        process.process.send_signal(signal.SIGTERM)
        with trio.move_on_after(grace_s):
            await process.process.wait()
            took_s = round(trio.current_time() - began_s, 6)
            self._gone(host)
            self.history.add(What.STOPPED, name, took_s=took_s)
            self.history.add(What.NODE_DOWN, name, why="left")
            code = process.process.returncode
            if code != 0:
                self._stuck(host, f"asked to leave, it ended with exit status {code}", process)
            return
        self.history.add(What.STUCK, name, why="asked to leave and not gone", for_s=grace_s)
        await self.kill(name, "stuck")

    def stop_process(self, name: str, key: str) -> bool:
        """SIGSTOP until every key has been taken back; whether there was a process."""
        process = self.hosts[name].process
        if process is None or not process.runs:
            return False
        process.stop(key)
        return True

    def continue_process(self, name: str, key: str) -> None:
        """Takes a key back; a node that was started anew meanwhile was never stopped."""
        process = self.hosts[name].process
        if process is not None:
            process.go_on(key)

    # -- disks

    def snapshot(self, host: LiveHost) -> None:
        """Keeps a copy of a node's database as it is now."""
        source = Home(host.home).database_path
        if not source.exists():
            return
        host.snapshots_taken += 1
        target = self.tag.folder / "snapshots" / f"{host.name}-{host.snapshots_taken}.sqlite"
        target.parent.mkdir(exist_ok=True)
        with suppress(sqlite3.Error):
            before = sqlite3.connect(f"file:{source}?mode=ro", uri=True)
            after = sqlite3.connect(target)
            try:
                before.backup(after)
                host.snapshots.append((trio.current_time(), target))
            finally:
                before.close()
                after.close()
        if len(host.snapshots) > SNAPSHOTS_MAX:
            host.snapshots.pop(0)[1].unlink(missing_ok=True)

    def roll_back(self, host: LiveHost, back_s: float) -> bool:
        """A node that is down gets the newest copy that is so old; whether there is one."""
        limit_s = trio.current_time() - back_s
        old = [path for at_s, path in host.snapshots if at_s <= limit_s]
        if not old:
            return False
        self.wipe(host)
        shutil.copyfile(old[-1], Home(host.home).database_path)
        return True

    def wipe(self, host: LiveHost) -> None:
        """A node that is down loses its database; its keys stay."""
        path = Home(host.home).database_path
        for each in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
            each.unlink(missing_ok=True)


def flags_of(plan: Cluster, network: LiveNetwork, name: str) -> Sequence[str]:
    """The options of a node's ``rhizome peer``."""
    slower = plan.slow.get(name, 1.0)
    engine = ["--engine", plan.engine]
    if plan.engine == "toy":
        engine += [
            *("--toy-slots", str(plan.slots)),
            *("--toy-cache-tokens", str(plan.cache_blocks * 16)),
            *("--toy-context-tokens", str(plan.context_tokens)),
            *("--toy-prefill-tokens-per-s", str(plan.prefill_tokens_per_s / slower)),
            *("--toy-decode", f"{plan.decode_ms_per_token * slower}ms"),
        ]
    elif plan.model:
        engine += ["--model", plan.model]
    return [*network.flags(name), "--policy", plan.policy, *engine]


async def make_cluster(
    schedule: Schedule,
    history: History,
    tag: RunTag,
    founded: Founded,
    network: LiveNetwork,
    nursery: trio.Nursery,
) -> LiveCluster:
    """A cluster whose network carries; no node runs yet."""
    await nursery.start(network.run)
    hosts = {
        name: LiveHost(name=name, home=founded.homes[name], peer_id=founded.peer_ids[name])
        for name in schedule.cluster.names
    }
    tenants: dict[str, str] = {each: name for name, each in founded.tenants.items()}
    return LiveCluster(schedule, history, tag, nursery, hosts, network, tenants)
