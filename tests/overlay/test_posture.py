"""The posture block: nobody has to guess what is open to whom."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from chaos.world import World, world_of
from overlay.address import Address
from overlay.choices import Isolation
from overlay.config import PeerConfig
from overlay.control.handler import status_of
from overlay.posture import Openings, posture
from tests.overlay.peers_world import FAST, simulate


def shown(
    world: World,
    *,
    http: tuple[str, ...] = (),
    clear: bool = False,
    enrolment: int = 0,
    config: PeerConfig | None = None,
) -> str:
    node = world.hosts[0].running
    openings = Openings(
        interfaces=["eth0", "wlan0"],
        http=http,
        http_in_clear=clear,
        enrolment=[Address("10.0.0.1", port) for port in range(1, enrolment + 1)],
        socket=Path("/home/a/control.sock"),
    )
    return posture(node, status_of(node, http), config or PeerConfig(), openings)


def test_it_names_the_peer_its_engine_and_every_open_port_with_its_users() -> None:
    async def main() -> None:
        async with world_of(81, [FAST], tenants=("a", "b")) as world:
            peer_id = world.hosts[0].identity.peer_id
            text = shown(world, http=("http://127.0.0.1:7403",), enrolment=2)
            lines = text.splitlines()
            assert lines[0].split() == ["peer", peer_id]
            assert "tenants: a, b" in lines[1]
            assert "eth0, wlan0" in text
            assert "8192 blocks of 16 tokens" in text
            assert "\nmodel       toy, context of 8192 tokens\n" in text
            assert "\ndiscovery   mDNS on eth0, wlan0\n" in text
            assert "/home/a/control.sock to this host's owner" in text
            assert "10.0.0.1:7401 to peers of this overlay" in text
            assert "10.0.0.1:1, 10.0.0.1:2 to holders of a ticket" in text
            assert "http://127.0.0.1:7403 to clients with a token" in text
            columns = {line.index(line[10:].strip()) for line in lines}
            assert len(columns) == 1, "values stand below each other"

    simulate(81, main)


def test_what_is_closed_is_not_shown_and_what_is_in_clear_is_said() -> None:
    async def main() -> None:
        async with world_of(82, [None]) as world:
            assert "ticket" not in shown(world)
            assert "http" not in shown(world)
            assert "cache" not in shown(world), "it has no engine"
            quiet = PeerConfig(mdns=False)
            assert "discovery   off" in shown(world, config=quiet)
            told = PeerConfig(mdns=False, bootstrap=(Address("10.0.0.2", 7401),))
            assert "discovery   bootstrap 10.0.0.2:7401\n" in shown(world, config=told)
            clear = shown(world, http=("http://0.0.0.0:7403",), clear=True)
            assert "http://0.0.0.0:7403 to every host, in clear" in clear

    simulate(82, main)


def test_it_says_what_tenants_see_of_each_other() -> None:
    async def main() -> None:
        async with world_of(83, [FAST]) as world:
            node = world.hosts[0].running
            assert "isolation" not in shown(world), "an engine of its own kind says it itself"
            for isolation in Isolation:
                node.engine_tenants = replace(node.engine_tenants, isolation=isolation)
                assert f"\nisolation   {isolation.value}: " in shown(world)

    simulate(83, main)


def test_the_engine_is_told_of_the_hosts_tenants() -> None:
    async def main() -> None:
        async with world_of(84, [FAST], tenants=("a", "b")) as world:
            node = world.hosts[0].running
            told: list[set[str]] = []
            engine = node.ports.engine
            engine.share_among = lambda tenants: told.append(set(tenants))  # type: ignore[method-assign]
            gone, left = list(node.tenants)
            node.tenants.forget(gone.tenant_id)
            assert told == [{left.tenant_id}]

    simulate(84, main)
