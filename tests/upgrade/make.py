"""``python -m tests.upgrade.make`` writes what this version leaves behind, once for each version.

A state folder of an issuer's host with one more member in its overlay, and all gossip that the
host has heard of that member: from seed 1 in a simulation, so that the keys are nobody's. HPKE
draws randomness of its own, so that a second run writes other bytes; what is committed stays.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import trio

from chaos.adversary import Ear
from chaos.simulation import run_simulation
from chaos.world import World, until
from inference.toy import ToyConfig
from overlay.config import config_template
from overlay.storage import SqliteStorage
from tests.overlay.issuer_home import issuer_home

HERE = Path(__file__).parent
VERSION = "1"
FOLDER, HEARD = HERE / f"folder-{VERSION}", HERE / f"heard-{VERSION}.json"
TENANT = "default"
QUESTION = "The river Lanner rises on Mount Ashby and flows north to the sea. " * 6
TOY = ToyConfig(slots=2, prefill_tokens_per_s=5000.0, decode_s_per_token=0.005, end_every=0)


async def lived() -> tuple[World, list[str]]:
    """Two hosts that have answered requests; the messages that the first one has heard."""
    world = World(1, node_settings={"policy": "local"})
    world.found([TOY, TOY], (TENANT,))
    ear = Ear()
    async with world.started():
        first, second = [host.running for host in world.hosts]
        ear.listen_at(first)
        await until(lambda: first.peers.up() and second.peers.up())
        for number in range(3):
            await world.ask(world.hosts[1], f"{number}: {QUESTION}", tenant=TENANT)
        await until(lambda: first.knowledge.gossip.reader.tags_known(second.peer_id) > 0)
        await trio.sleep(10)
    return world, [data.hex() for sender, data in ear.heard if sender == second.peer_id]


def write(world: World, heard: list[str]) -> None:
    """The first host's folder, as ``rhizome init`` and a stopped peer leave it."""
    host = world.hosts[0]
    authority = world.authority
    assert authority is not None
    authority, _ = authority.invite(
        [TENANT], ["192.0.2.1:7402"], 600.0, world.entropy("ticket").secret, 1_800_000_000.0
    )
    shutil.rmtree(FOLDER, ignore_errors=True)
    home = issuer_home(FOLDER, world, host, 1_800_000_000.0, authority)
    home.write_config_template(config_template())
    storage = SqliteStorage(home.database_path)
    for table, rows in host.storage._written.items():
        storage.write(table, rows, durable=True)
    storage.close()
    told = {"sender": world.hosts[1].identity.peer_id, "messages": heard}
    HEARD.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    write(*run_simulation(1, lived))
