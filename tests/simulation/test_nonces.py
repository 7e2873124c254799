"""No (key, nonce) pair is used twice: peers that crash, are set back, are cloned, in a long run.

The cipher below the sealers is replaced by one that writes down what it is given; whatever seals an
envelope goes through it. ``MONOTONE`` holds the same against the frames of every chaos run.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

import pytest
import trio
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from chaos.storage import SimStorage
from chaos.world import Host, World, world_of
from overlay.errors import OverlayError
from security import envelope
from security.envelope import Sealer, Sealers
from security.tenant_keys import TenantKeys
from tests.overlay.peers_world import FAST, everybody_ready, simulate

ROUNDS = 24
DAY_S = 86_400.0


@dataclass
class Seals:
    """Every pair that was sealed with, and those that were used again."""

    used: dict[tuple[bytes, bytes], int] = field(default_factory=dict)
    repeated: list[tuple[bytes, bytes]] = field(default_factory=list)

    def note(self, key: bytes, nonce: bytes) -> None:
        if (key, nonce) in self.used:
            self.repeated.append((key, nonce))
        self.used[key, nonce] = self.used.get((key, nonce), 0) + 1

    @property
    def keys(self) -> int:
        return len({key for key, _ in self.used})


@pytest.fixture
def seals(monkeypatch: pytest.MonkeyPatch) -> Seals:
    noted = Seals()

    class Noting:
        """ChaCha20-Poly1305 that writes down what it encrypts with."""

        def __init__(self, key: bytes) -> None:
            self._key, self._cipher = key, ChaCha20Poly1305(key)
            self.decrypt = self._cipher.decrypt

        def encrypt(self, nonce: bytes, data: bytes, associated: bytes | None) -> bytes:
            noted.note(self._key, nonce)
            return self._cipher.encrypt(nonce, data, associated)

    monkeypatch.setattr(envelope, "ChaCha20Poly1305", Noting)
    return noted


class Disturbed:
    """A world in which one thing after another happens to hosts, drawn from a seed."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.rng = random.Random(seed)
        self.clones = 0

    async def asked(self) -> None:
        """Something is cached, and so published, at every host, several times."""
        for host in self.world.hosts * 3:
            if host.node is not None:
                text = f"{self.rng.random()} " * 20
                with trio.move_on_after(20.0):
                    try:
                        await self.world.ask(host, text, max_tokens=1)
                    except (OverlayError, AssertionError):
                        continue  # cut off by its own clock, or no member at present
            await trio.sleep(1.0)
        await trio.sleep(4.0)

    async def restarted(self, between: Callable[[Host], None] = lambda _: None) -> None:
        host = self.rng.choice(self.world.hosts)
        self.world.kill(host)
        await trio.sleep(1.0)
        between(host)
        await self.world.start(host)
        await trio.sleep(6.0)

    async def rolled_back(self) -> None:
        back_s = self.rng.uniform(1.0, 120.0)
        await self.restarted(lambda host: rolled_back(host, back_s))

    async def set_back(self) -> None:
        """A process starts with a wrong wall clock, by seconds, days or years either way."""
        offsets_s = (-3.0, -120.0, -DAY_S, 400.0, -4000 * DAY_S, 0.0)
        self.world.clock_offset_s = self.rng.choice(offsets_s)
        await self.restarted(lambda host: rolled_back(host, 30.0))
        self.world.clock_offset_s = 0.0

    async def cloned(self) -> None:
        """A copy of a host's folder runs beside it for a while."""
        host = self.rng.choice(self.world.hosts)
        self.clones += 1
        copy = replace(
            host, name=f"10.0.1.{self.clones}", storage=SimStorage(), node=None, scope=None
        )
        copy.storage.write("self", host.storage.read("self"), durable=True)
        await self.world.start(copy)
        await trio.sleep(3.0)
        if copy.node is not None:
            with trio.move_on_after(10.0), suppress(OverlayError, AssertionError):
                await self.world.ask(copy, f"{self.rng.random()} " * 20, max_tokens=1)
        await trio.sleep(10.0)
        if copy.node is not None:
            self.world.kill(copy)
        if host.node is None:
            await self.world.start(host)  # of the two it was the one that ended

    async def roster_changed(self) -> None:
        """The same tenant in a new epoch, and perhaps in two versions of that."""
        authority = self.world.authority
        assert authority is not None
        tenant_id = authority.tenant_id("default")
        secret = self.world.entropy(f"rotation {self.rng.random()}").secret
        if self.rng.random() < 0.5:
            keys = self.rng.choice(self.world.hosts).identity.keys
            authority, _ = authority.remove_member(tenant_id, keys.peer_id, secret)
            authority, data = authority.add_member(
                tenant_id, keys.peer_id, keys.sealing_public, secret
            )
        else:
            authority, data = authority.rotate(tenant_id, secret, hard=self.rng.random() < 0.5)
        self.world.authority = authority
        for host in self.world.hosts:
            host.epochs = authority.epochs
            if host.node is not None:
                host.node.knowledge.learn_epoch(data)
        await trio.sleep(4.0)

    async def run(self) -> None:
        happenings = (
            self.restarted,
            self.rolled_back,
            self.set_back,
            self.cloned,
            self.roster_changed,
        )
        for round_ in range(ROUNDS):
            await self.asked()
            await happenings[round_ % len(happenings)]()
        await self.asked()


def rolled_back(host: Host, back_s: float) -> None:
    host.storage.roll_back(trio.current_time() - back_s)


def disturbed(seed: int) -> None:
    async def main() -> None:
        async with world_of(seed, [FAST] * 3, tenants=("default", "other")) as world:
            await everybody_ready(world)
            for host in world.hosts:
                host.storage._now_s = trio.current_time  # from here on it can be rolled back to
            happened = Disturbed(world, seed)
            await happened.run()
            assert len(world.cloned) <= happened.clones, "a restart or an old disk is no clone"

    simulate(seed, main)


@pytest.mark.parametrize("seed", [91, 92])
def test_no_pair_repeats_over_crashes_restores_clones_and_clocks(seals: Seals, seed: int) -> None:
    disturbed(seed)
    assert seals.repeated == []
    assert len(seals.used) > 100
    assert seals.keys > 25, "every start, generation, epoch, tenant and kind has a key of its own"


# -- that it can fail


def test_counters_that_begin_anew_are_found(monkeypatch: pytest.MonkeyPatch, seals: Seals) -> None:
    def anew(self: Sealers, keys: TenantKeys) -> Sealer:
        return Sealer(keys, self._peer, self._generation, self._boot_salt)

    monkeypatch.setattr(Sealers, "of", anew)
    disturbed(91)
    assert seals.repeated


def test_a_boot_salt_and_generation_that_come_from_the_disk_are_found(
    monkeypatch: pytest.MonkeyPatch, seals: Seals
) -> None:
    """As if both were stored with the keys: a copy or a restored disk has them too."""
    monkeypatch.setattr("overlay.node.next_generation", lambda *_, **__: 7)
    monkeypatch.setattr("overlay.node.BOOT_SALT_BYTES", 16)
    salted = World.entropy

    def without_salt(self: World, purpose: str) -> object:
        made = salted(self, purpose)
        secret = made.secret
        made.secret = lambda size: bytes(size) if size == 16 else secret(size)  # type: ignore[method-assign]
        return made

    monkeypatch.setattr(World, "entropy", without_salt)

    async def main() -> None:
        async with world_of(94, [FAST] * 2) as world:
            for _ in range(2):
                await trio.sleep(5.0)
                await world.ask(world.hosts[0], "the same again " * 20, max_tokens=1)
                await trio.sleep(5.0)
                world.kill(world.hosts[0])
                await trio.sleep(1.0)
                await world.start(world.hosts[0])

    simulate(94, main)
    assert seals.repeated
