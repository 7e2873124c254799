"""Old copies of a home, cloned folders and wrong clocks, with the real database of each peer.

What may come of it: a new generation, above any that the host has ever used, or a refusal that says
what is wrong. What may not: a peer that goes on where it was before, unseen.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest
import trio

from chaos.clock import SIMULATION_EPOCH_UNIX_S
from chaos.storage import SimStorage
from chaos.world import Host, World, until, world_of
from overlay.generation import is_plausible
from overlay.storage import SqliteStorage
from tests.overlay.peers_world import FAST, QUESTION, everybody_ready, simulate

DAY_S = 86_400.0
YEARS_S = 6 * 365 * DAY_S


@dataclass
class Disks:
    """Each host's database as a file."""

    folder: Path
    open: dict[str, SqliteStorage] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        return self.folder / name / "state.db"

    def attach(self, host: Host) -> None:
        """The host's next start is on its file, as a new process opens it."""
        self.detach(host)
        self.path(host.name).parent.mkdir(exist_ok=True)
        self.open[host.name] = SqliteStorage(self.path(host.name))
        host.storage = cast("SimStorage", self.open[host.name])

    def detach(self, host: Host) -> None:
        storage = self.open.pop(host.name, None)
        if storage is not None:
            storage.close()

    def copy(self, name: str, to: str) -> None:
        """A file copy of the database as it lies there, with what is beside it."""
        target = self.path(to).parent
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.path(name).parent, target)


def on_disks(
    tmp_path: Path,
    body: Callable[[World, Disks], Awaitable[None]],
) -> None:
    disks = Disks(tmp_path)

    async def main() -> None:
        async with world_of(61, [FAST] * 3) as world:
            for host in world.hosts:
                world.kill(host)
                await trio.sleep(0.5)
                disks.attach(host)
                await world.start(host)
            await everybody_ready(world)
            await world.ask(world.hosts[0], QUESTION, max_tokens=1)
            await trio.sleep(5.0)
            await body(world, disks)

    simulate(61, main)


async def started_again(world: World, disks: Disks, host: Host, restore: str | None = None) -> int:
    """The host's peer is killed and started, perhaps on a copy of a database; its generation."""
    world.kill(host)
    await trio.sleep(1.0)
    disks.detach(host)
    if restore is not None:
        disks.copy(restore, host.name)
    disks.attach(host)
    return (await world.start(host)).generation


def believed(by: Host, of: Host) -> int:
    """The generation of a host that another one knows."""
    origin = by.running.knowledge.gossip.origins.known.get(of.identity.peer_id)
    return 0 if origin is None else origin.record.generation


async def heard(by: Host, of: Host) -> None:
    """Until a host knows another one as it is now."""
    await until(lambda: believed(by, of) == of.running.generation, timeout_s=30.0)


def test_an_old_copy_of_a_home_begins_a_new_generation(tmp_path: Path) -> None:
    async def body(world: World, disks: Disks) -> None:
        host, other, _ = world.hosts
        disks.copy(host.name, "backup")
        used = [host.running.generation]
        for _ in range(3):
            used.append(await started_again(world, disks, host))
            await trio.sleep(20.0)
        restored = await started_again(world, disks, host, restore="backup")
        assert restored > max(used)
        await heard(other, host)
        assert (await world.ask(other, QUESTION, max_tokens=1)).finished

    on_disks(tmp_path, body)


def test_an_old_copy_with_the_clock_set_back_is_told_and_jumps_above_what_it_was(
    tmp_path: Path,
) -> None:
    async def body(world: World, disks: Disks) -> None:
        host, other, third = world.hosts
        disks.copy(host.name, "backup")
        await trio.sleep(300.0)
        last = await started_again(world, disks, host)
        await heard(other, host)
        world.clock_offset_s = -400.0
        restored = await started_again(world, disks, host, restore="backup")
        assert restored < last, "of itself it cannot know better"
        await until(lambda: host.running.generation > last, timeout_s=30.0)
        for each in (other, third):
            assert believed(each, host) in (last, host.running.generation), "never the lower one"
            await heard(each, host)

    on_disks(tmp_path, body)


def test_nobody_believes_a_generation_below_one_that_it_has_stored(tmp_path: Path) -> None:
    """The others have been started anew as well, and know of it from their floors alone."""

    async def body(world: World, disks: Disks) -> None:
        host, other, third = world.hosts
        disks.copy(host.name, "backup")
        await trio.sleep(300.0)
        last = await started_again(world, disks, host)
        await heard(other, host)
        peer_id = host.identity.peer_id
        for number in range(12):  # some of them run at the host itself, which tells of it
            await world.ask(host, f"{number} {QUESTION}", max_tokens=1)
        await until(lambda: other.running.knowledge.prefixes(peer_id))
        await trio.sleep(10.0)
        world.kill(host)
        for each in (other, third):
            await started_again(world, disks, each)
        assert believed(other, host) == 0
        assert other.running.knowledge.gossip.reader.generation_floors()[peer_id] == last
        world.clock_offset_s = -400.0
        disks.detach(host)
        disks.copy("backup", host.name)
        disks.attach(host)
        node = await world.start(host)
        assert node.generation < last
        await trio.sleep(20.0)
        assert believed(other, host) not in range(1, last)

    on_disks(tmp_path, body)


def test_of_a_cloned_folder_both_have_generations_and_salts_of_their_own(tmp_path: Path) -> None:
    async def body(world: World, disks: Disks) -> None:
        host = world.hosts[0]
        before = host.running
        disks.copy(host.name, "10.0.0.9")
        clone = replace(host, name="10.0.0.9", node=None, scope=None)
        disks.attach(clone)
        await world.start(clone)
        assert clone.running.boot_salt != before.boot_salt
        assert clone.running.generation > before.generation
        newest = clone.running.generation
        for other in world.hosts[1:]:
            await until(lambda: believed(other, host) >= newest, timeout_s=30.0)  # noqa: B023 - called at once
        for _ in range(60):
            await trio.sleep(1.0)
            assert all(believed(other, host) >= newest for other in world.hosts[1:])
        assert len(world.cloned) == 1, "one of the two ends"

    on_disks(tmp_path, body)


def test_a_clock_years_ahead_is_refused_and_uses_up_no_generations(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(world: World, disks: Disks) -> None:
        host, other, _ = world.hosts
        before = host.running.generation
        world.clock_offset_s = YEARS_S
        ahead = await started_again(world, disks, host)
        now_unix_s = SIMULATION_EPOCH_UNIX_S + trio.current_time()
        assert ahead > before
        assert is_plausible(ahead, now_unix_s), "others will still believe it"
        await trio.sleep(20.0)
        assert host.running.peers.up() == []
        assert "certificate ended" in caplog.text
        world.clock_offset_s = 0.0
        right = await started_again(world, disks, host)
        assert right > ahead
        await heard(other, host)

    on_disks(tmp_path, body)


def test_a_clock_years_behind_is_refused_and_generations_go_on_rising(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(world: World, disks: Disks) -> None:
        host, other, _ = world.hosts
        before = host.running.generation
        world.clock_offset_s = -YEARS_S
        behind = await started_again(world, disks, host)
        assert behind > before
        await trio.sleep(20.0)
        assert host.running.peers.up() == []
        assert "is the clock of this host right?" in caplog.text
        world.clock_offset_s = 0.0
        assert await started_again(world, disks, host) > behind
        await heard(other, host)

    on_disks(tmp_path, body)


def test_a_database_is_written_ahead_and_by_one_at_a_time(tmp_path: Path) -> None:
    storage = SqliteStorage(tmp_path / "state.db")
    storage.write("floors", {b"a": b"1"})
    reading = sqlite3.connect(tmp_path / "state.db", timeout=0.01, isolation_level=None)
    assert reading.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    reading.execute("BEGIN")
    reading.execute("SELECT * FROM floors").fetchall()
    storage.write("floors", {b"b": b"2"})  # a reader holds no writer up
    reading.execute("ROLLBACK")
    reading.execute("BEGIN IMMEDIATE")
    second = sqlite3.connect(tmp_path / "state.db", timeout=0.01, isolation_level=None)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        second.execute("BEGIN IMMEDIATE")
