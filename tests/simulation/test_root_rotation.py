"""Changing the root under whole peers: no connection ends, and nobody is left behind."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from chaos.clock import VirtualClock
from chaos.issuing import MemoryFiles
from chaos.rotation import RootChange, root_key_of, take_roots
from chaos.world import Host, World, until
from overlay.errors import StorageFull
from overlay.home import HomeFile
from overlay.identity import read_bundles
from overlay.trust.seeker import SEEK_MAX_S
from security.authority import Authority
from security.certificate import make_next_root, parse_issuer, parse_root, renew_issuer
from security.errors import UntrustedIssuer
from security.revocation import make_revocation
from security.root_bundle import make_bundle, number_after
from tests.overlay.peers_world import FAST, QUESTION, everybody_ready
from tests.simulation.test_renewal import DAY_S, HOUR_S, is_whole, simulate


class Rotating:
    """A world whose first host is the issuer's, and where its root is changed."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.issuer = world.hosts[0]
        assert self.issuer.files is not None
        self.files = self.issuer.files
        root, entropy = root_key_of(self.files), world.entropy("roots")
        self.change = RootChange(self.files, root, VirtualClock(), entropy)

    async def at_issuer(self, *steps: Callable[[], object]) -> None:
        """Takes steps at the issuer's host while its peer is stopped."""
        self.world.kill(self.issuer)
        await until(lambda: self.issuer.node is None)
        for step in steps:
            step()
        take_roots(self.issuer, read_bundles(self.files))
        await self.world.start(self.issuer)

    def numbers(self) -> list[int]:
        """The number of the roots that each running host believes."""
        return [h.running.trust.now.roots.number for h in self.world.hosts if h.node is not None]

    async def everybody_at(self, number: int) -> None:
        await until(lambda: set(self.numbers()) == {number}, timeout_s=HOUR_S)

    def newest_shown(self, host: Host) -> bool:
        """Whether a host shows a certificate of its issuer by the newest root."""
        try:
            parse_issuer(host.running.identity.issuer, host.running.trust.now.roots.newest)
        except UntrustedIssuer:
            return False
        return True

    async def whole_rotation(self) -> None:
        before = self.issuer.running.trust.now.roots.number
        await self.at_issuer(self.change.overlap)
        await self.everybody_at(max(before, 1) + 1)
        await self.at_issuer(self.change.certify)
        running = [host for host in self.world.hosts if host.node is not None]
        await until(lambda: all(map(self.newest_shown, running)), timeout_s=HOUR_S)
        await self.at_issuer(self.change.drop)
        await self.everybody_at(max(before, 1) + 2)


@asynccontextmanager
async def rotating_world(
    seed: int, hosts: int = 3, *, leaf_s: float = DAY_S
) -> AsyncIterator[Rotating]:
    world = World(seed, leaf_s=leaf_s)
    world.found([FAST] * hosts, ("default",))
    world.issue_at(world.hosts[0])
    async with world.started():
        await everybody_ready(world)
        yield Rotating(world)


def test_a_root_is_changed_and_no_connection_between_others_ends() -> None:
    async def main() -> None:
        async with rotating_world(1101) as rotating:
            world = rotating.world
            _, b, c = world.hosts
            before = b.running.peers.connection(c.identity.peer_id)
            await rotating.whole_rotation()
            assert b.running.peers.connection(c.identity.peer_id) is before
            await until(lambda: is_whole(world))
            for host in world.hosts:
                assert await world.ask(host, QUESTION)
                roots = host.running.trust.now.roots
                assert [parse_root(root).number for root in roots.in_force] == [2]
            assert not any(host.running.trust.posture() for host in world.hosts)

    simulate(1101, main)


@pytest.mark.parametrize("writes", [0, 1])
def test_steps_that_are_cut_off_are_completed_while_peers_run_in_between(
    writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine of the issuer goes off in each step, its peer runs, the step is made again."""
    write = MemoryFiles.write
    left = 0

    def cut(self: MemoryFiles, file: HomeFile, content: bytes) -> None:
        nonlocal left
        if not left:
            raise StorageFull("the machine is off")
        left -= 1
        write(self, file, content)

    def cut_off(step: Callable[[], object]) -> None:
        nonlocal left
        left = writes
        with monkeypatch.context() as patch:
            patch.setattr(MemoryFiles, "write", cut)
            with contextlib.suppress(StorageFull):
                step()

    async def main() -> None:
        async with rotating_world(1130 + writes) as rotating:
            world, change = rotating.world, rotating.change
            for number, step in ((2, change.overlap), (2, change.certify), (3, change.drop)):
                await rotating.at_issuer(partial(cut_off, step))
                await until(lambda: is_whole(world), timeout_s=HOUR_S)
                assert await world.ask(world.hosts[1], QUESTION)
                await rotating.at_issuer(step)
                await rotating.everybody_at(number)
                if step == change.certify:
                    await until(lambda: all(map(rotating.newest_shown, world.hosts)))
            await until(lambda: is_whole(world), timeout_s=HOUR_S)
            chains = [host.running.trust.now.roots for host in world.hosts]
            assert chains[0] == chains[1] == chains[2]
            assert not any(host.running.trust.book.conflict for host in world.hosts)

    simulate(1130 + writes, main)


def test_two_rotations_one_after_the_other() -> None:
    async def main() -> None:
        async with rotating_world(1102) as rotating:
            await rotating.whole_rotation()
            await rotating.whole_rotation()
            await until(lambda: is_whole(rotating.world))
            assert set(rotating.numbers()) == {5}
            assert await rotating.world.ask(rotating.world.hosts[1], QUESTION)

    simulate(1102, main)


@pytest.mark.parametrize("who", [0, 1])
def test_a_peer_that_restarts_in_each_phase_goes_on(who: int) -> None:
    async def main() -> None:
        async with rotating_world(1103 + who) as rotating:
            world, change = rotating.world, rotating.change
            for number, step in ((2, change.overlap), (2, change.certify), (3, change.drop)):
                await rotating.at_issuer(step)
                await world.restart(world.hosts[who])
                await rotating.everybody_at(number)
                await until(lambda: is_whole(world), timeout_s=HOUR_S)
                if step == change.certify:
                    await until(lambda: all(map(rotating.newest_shown, world.hosts)))
            assert await world.ask(world.hosts[who], QUESTION)

    simulate(1103 + who, main)


@pytest.mark.parametrize("rotations", [1, 2])
@pytest.mark.parametrize("off_s", [10.0, 1500.0])
def test_a_peer_that_was_off_for_all_of_it_comes_back_untouched(
    rotations: int, off_s: float
) -> None:
    """Its certificate may be in force or ended: nobody shows a root that it knows."""

    async def main() -> None:
        async with rotating_world(1110 + rotations, leaf_s=1200.0) as rotating:
            world = rotating.world
            off = world.hosts[2]
            world.kill(off)
            await until(lambda: off.node is None)
            for _ in range(rotations):
                await rotating.whole_rotation()
            await trio.sleep(off_s)
            await world.start(off)
            await until(lambda: is_whole(world), timeout_s=HOUR_S)
            assert off.running.trust.now.roots == rotating.issuer.running.trust.now.roots
            assert await world.ask(off, QUESTION)

    simulate(1110 + rotations, main)


def test_a_drop_that_came_too_early_is_healed_by_the_issuers_next_certificate() -> None:
    """The hosts show a certificate that no root vouches for: links end, and all come back."""

    async def main() -> None:
        async with rotating_world(1120) as rotating:
            world = rotating.world
            await rotating.at_issuer(rotating.change.overlap)
            await rotating.everybody_at(2)
            await rotating.at_issuer(rotating.change.drop)
            await rotating.everybody_at(3)
            await until(
                lambda: not any(h.running.peers.up() for h in world.hosts), timeout_s=HOUR_S
            )
            assert await world.ask(world.hosts[1], QUESTION), "it serves its own clients"
            await rotating.at_issuer(rotating.change.certify)
            await until(lambda: is_whole(world), timeout_s=HOUR_S)
            assert await world.ask(world.hosts[1], QUESTION)

    simulate(1120, main)


def test_a_partition_hears_of_it_afterwards() -> None:
    async def main() -> None:
        async with rotating_world(1121, 4) as rotating:
            world = rotating.world
            names = [host.name for host in world.hosts]
            world.network.partition(names[:2], names[2:])
            await rotating.at_issuer(rotating.change.overlap)
            await until(lambda: rotating.numbers() == [2, 2, 0, 0])
            world.network.heal()
            await rotating.everybody_at(2)
            await rotating.at_issuer(rotating.change.certify)
            await until(lambda: all(map(rotating.newest_shown, world.hosts)), timeout_s=HOUR_S)
            world.network.partition(names[:2], names[2:])
            await rotating.at_issuer(rotating.change.drop)
            await until(lambda: rotating.numbers() == [3, 3, 2, 2])
            world.network.heal()
            await rotating.everybody_at(3)
            await until(lambda: is_whole(world), timeout_s=HOUR_S)

    simulate(1121, main)


def test_hosts_that_were_cut_off_together_ask_too() -> None:
    """They see each other, and nobody else shows a root that they know."""

    async def main() -> None:
        async with rotating_world(1124, 4) as rotating:
            world = rotating.world
            names = [host.name for host in world.hosts]
            world.network.partition(names[:2], names[2:])
            await rotating.at_issuer(rotating.change.overlap)
            await until(lambda: rotating.numbers() == [2, 2, 0, 0])
            await rotating.at_issuer(rotating.change.certify)
            await until(lambda: all(map(rotating.newest_shown, world.hosts[:2])))
            world.network.heal()
            await until(lambda: is_whole(world), timeout_s=2 * SEEK_MAX_S)
            assert set(rotating.numbers()) == {2}

    simulate(1124, main)


def test_what_an_issuer_had_revoked_stays_so_when_its_root_is_let_go() -> None:
    async def main() -> None:
        async with rotating_world(1122) as rotating:
            world = rotating.world
            a, b, c = world.hosts
            second = world.another_issuer("second").issuer
            b.running.trust.learn(issuers=[second.der])
            told = make_revocation(second, "f" * 32, 1_800_000_000)
            b.running.revoke([told], [second.der])
            await until(lambda: all(h.running.keeper.revokes("f" * 32) for h in world.hosts))
            await rotating.whole_rotation()
            for host in (b, c):
                await world.restart(host)
            await until(lambda: is_whole(world), timeout_s=HOUR_S)
            assert all(h.running.keeper.revokes("f" * 32) for h in (a, b, c))
            assert second.issuer_id not in b.running.trust.now.issuers
            # The issuer that is left has signed it as well: who joins from now on is told it.
            assert world.authority is not None
            signers = {each.signer for each in c.running.keeper.exchange.statements()}
            assert signers == {second.issuer_id, world.authority.issuer.issuer_id}
            await trio.sleep(120)
            assert is_whole(world)

    simulate(1122, main)


def world_of_two_issuers(seed: int) -> tuple[World, Authority]:
    """Hosts 2 and 3 have their certificates from the second issuer, which has no host."""
    world = World(seed)
    world.found([FAST] * 4, ("default",))
    world.issue_at(world.hosts[0])
    second = world.another_issuer("second")
    for host in world.hosts[2:]:
        second = world.enrol_again(host, second)
    return world, second


def test_hosts_of_two_issuers_go_on_when_both_are_certified_anew() -> None:
    async def main() -> None:
        world, second = world_of_two_issuers(1125)
        async with world.started():
            await until(lambda: is_whole(world))
            rotating, (_, b, c, d) = Rotating(world), world.hosts
            before = b.running.peers.connection(c.identity.peer_id)
            await rotating.at_issuer(rotating.change.overlap)
            await rotating.everybody_at(2)
            secret = world.entropy("again").secret
            again = renew_issuer(rotating.change.newest(), second.issuer, secret, 1_800_000_000)
            c.running.trust.learn(issuers=[again.der])
            await rotating.at_issuer(rotating.change.certify)
            await until(lambda: all(map(rotating.newest_shown, world.hosts)), timeout_s=HOUR_S)
            await rotating.at_issuer(rotating.change.drop)
            await rotating.everybody_at(3)
            await until(lambda: is_whole(world), timeout_s=HOUR_S)
            assert b.running.peers.connection(c.identity.peer_id) is before
            assert {d.identity.issuer, c.identity.issuer} == {again.der}

    simulate(1125, main)


def test_an_issuer_that_is_left_out_ends_with_the_old_root() -> None:
    async def main() -> None:
        world, _ = world_of_two_issuers(1126)
        async with world.started():
            await until(lambda: is_whole(world))
            rotating, (a, b, c, d) = Rotating(world), world.hosts
            await rotating.at_issuer(rotating.change.overlap)
            await rotating.everybody_at(2)
            await rotating.at_issuer(rotating.change.certify)
            await until(lambda: all(map(rotating.newest_shown, (a, b))), timeout_s=HOUR_S)
            await rotating.at_issuer(rotating.change.drop)
            await rotating.everybody_at(3)
            out = {c.identity.peer_id, d.identity.peer_id}
            await until(lambda: not out & {*a.running.peers.up(), *b.running.peers.up()})
            await until(lambda: b.identity.peer_id in a.running.peers.up(), timeout_s=HOUR_S)
            with pytest.raises(UntrustedIssuer):
                b.running.admission.judge(c.identity.leaf, None, c.identity.issuer)
            assert await world.ask(b, QUESTION)

    simulate(1126, main)


def test_two_bundles_of_one_number_are_told_to_the_owner_and_change_nothing() -> None:
    async def main() -> None:
        async with rotating_world(1123) as rotating:
            world, root = rotating.world, rotating.change.root
            _, b, _ = world.hosts
            roots = b.running.trust.now.roots
            secret = world.entropy("thief").secret
            rogue = make_next_root(roots.overlay_id, number_after(roots), secret, 1_800_000_000)
            await rotating.at_issuer(rotating.change.overlap)
            await rotating.everybody_at(2)
            before = b.running.trust.now
            b.running.trust.learn(roots=[make_bundle(2, root, rogue, drop=False)])
            assert b.running.trust.now is before
            assert "two root bundles" in dict(b.running.engine_posture())["roots"]
            await until(lambda: is_whole(world))

    simulate(1123, main)
