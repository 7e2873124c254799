"""State folders and recorded gossip of earlier versions are still read, and go on.

Each version has its folder and its messages (``make.py``). Old and new peers that answer together
under load are in ``tests/rolling``.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from chaos.entropy import SeededEntropy
from chaos.founding import enrol
from chaos.simulation import run_simulation
from chaos.storage import SimStorage
from chaos.world import Host, World, until
from overlay.config import load_config
from overlay.generation import KEY, TABLE
from overlay.gossip.gossip import FLOORS
from overlay.home import Home, HomeFile
from overlay.identity import load_identity
from overlay.storage import SqliteStorage
from security.authority_state import authority_from_bytes
from security.keys import HostKeys
from security.peer_id import PeerId
from tests.upgrade.make import HERE, QUESTION, TENANT, TOY

VERSIONS = sorted(path.name.partition("-")[2] for path in HERE.glob("folder-*"))
NOW_S = 1_800_000_000.0


def opened(version: str, tmp_path: Path) -> Home:
    """A copy of that version's folder, private again: git keeps no modes."""
    folder = tmp_path / "home"
    shutil.copytree(HERE / f"folder-{version}", folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return Home(folder)


def host_of(home: Home) -> Host:
    storage = SqliteStorage(home.database_path)
    epochs = tuple(home.read_epochs().values())
    return Host("10.0.0.1", load_identity(home), epochs, storage, TOY)  # type: ignore[arg-type]  # the real one


def test_there_is_a_folder_and_a_recording_of_each_version() -> None:
    assert VERSIONS
    heard = [path.stem.partition("-")[2] for path in HERE.glob("heard-*.json")]
    assert sorted(heard) == VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_a_folder_is_opened_and_its_issuer_goes_on(version: str, tmp_path: Path) -> None:
    home = opened(version, tmp_path)
    identity = load_identity(home)
    assert home.overlay_id() == identity.trust.overlay_id
    assert identity.check_dates(NOW_S) is None
    load_config(home.config_path)
    authority = authority_from_bytes(home.need(HomeFile.AUTHORITY))
    assert list(authority.tenant_names) == [TENANT]
    assert len(authority.tickets) == 1
    content = authority.tenants[authority.tenant_id(TENANT)].content
    assert identity.peer_id in content.members
    assert len(content.members) == 2


@pytest.mark.parametrize("version", VERSIONS)
def test_a_peer_starts_from_a_folder_above_its_generation_and_meets_a_new_host(
    version: str, tmp_path: Path
) -> None:
    home = opened(version, tmp_path)

    async def main() -> None:
        world = World(2)
        authority = authority_from_bytes(home.need(HomeFile.AUTHORITY))
        entropy = SeededEntropy(2, "new host")
        keys = HostKeys.generate(entropy.secret)
        world.authority, identity = enrol(
            authority, (TENANT,), keys=keys, entropy=entropy, now_unix_s=NOW_S
        )
        old, epochs = host_of(home), world.authority.epochs
        before = old.storage.read(TABLE)[KEY]
        assert old.storage.read(FLOORS)
        world.hosts = [old, Host("10.0.0.2", identity, epochs, SimStorage(), TOY)]
        async with world.started():
            assert old.storage.read(TABLE)[KEY] > before
            await until(lambda: all(len(host.running.peers.up()) == 1 for host in world.hosts))
            await until(lambda: len(old.running.tenants.named(TENANT).members) == 3)  # type: ignore[union-attr]
            first = await world.ask(old, QUESTION)
            again = await world.ask(world.hosts[1], QUESTION)
            assert first.token_ids == again.token_ids

    run_simulation(1, main)


@pytest.mark.parametrize("version", VERSIONS)
def test_recorded_gossip_is_read(version: str, tmp_path: Path) -> None:
    """By the host of the folder, without its floors: what it heard then is news again."""
    home = opened(version, tmp_path)
    recorded = json.loads((HERE / f"heard-{version}.json").read_text())
    sender = PeerId(recorded["sender"])

    async def main() -> None:
        world, host = World(2), host_of(home)
        host.storage = SimStorage()
        world.hosts = [host]
        async with world.started():
            node = host.running
            gossip = node.knowledge.gossip
            for data in recorded["messages"]:
                gossip.on_message(sender, bytes.fromhex(data), node.ports.clock.now_s(), NOW_S + 30)
            assert gossip.origins.counters.refused == 0
            assert gossip.reader.unreadable == 0
            assert gossip.reader.tags_known(sender) > 0
            assert gossip.load_of(sender) is not None

    run_simulation(1, main)
