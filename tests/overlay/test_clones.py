"""Two processes with one identity: exactly one of them ends, and restarts are no clones."""

from __future__ import annotations

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.storage import SimStorage
from chaos.world import Host, World, until, world_of
from overlay.clones import SEEN_MAX, WINDOW_S, Meeting, Sightings
from tests.overlay.peers_world import FAST, everybody_ready, simulate

SALTS = (b"x" * 16, b"y" * 16)


class Process:
    """One process as it meets the other: its generations, and what it has been told of."""

    def __init__(self, place: int, generation: int) -> None:
        self.salt = SALTS[place]
        self.other = SALTS[1 - place]
        self.said = [generation]
        self.sightings = Sightings(self.salt)
        self.cloned = False

    @property
    def generation(self) -> int:
        return self.said[-1]

    def hear(self, generation: int, drawn: int) -> None:
        ours = self.generation
        match self.sightings.meet(self.other, generation, ours=ours, now_s=0.0):
            case Meeting.CLONED:
                self.cloned = True
            case Meeting.JUMP:
                self.said.append(max(generation + 1, ours + 1, drawn))
                self.sightings.jumped(self.other, generation, ours=ours, now_s=0.0)


@settings(max_examples=300, deadline=None)
@given(
    st.tuples(st.integers(0, 3), st.integers(0, 3)),
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 9), st.integers(0, 12)), max_size=40),
)
def test_never_both_whatever_comes_late_twice_or_never(
    first: tuple[int, int], heard: list[tuple[int, int, int]]
) -> None:
    processes = [Process(place, generation) for place, generation in enumerate(first)]
    for place, which, drawn in heard:
        hearer, other = processes[place], processes[1 - place]
        if not hearer.cloned:
            hearer.hear(other.said[which % len(other.said)], drawn)
    assert sum(process.cloned for process in processes) <= 1


@given(st.tuples(st.integers(0, 3), st.integers(0, 3)), st.lists(st.integers(0, 3), max_size=4))
def test_one_of_them_as_soon_as_both_hear_of_each_other(
    first: tuple[int, int], drawn: list[int]
) -> None:
    processes = [Process(place, generation) for place, generation in enumerate(first)]
    ties = iter(drawn)
    for _ in range(12):
        for place in range(2):
            hearer, other = processes[place], processes[1 - place]
            if not hearer.cloned and not other.cloned:
                hearer.hear(other.generation, next(ties, 0))
    assert sum(process.cloned for process in processes) == 1


def test_what_is_below_or_ours_is_nothing_and_a_tie_does_not_count() -> None:
    seen = Sightings(SALTS[0])
    assert seen.meet(SALTS[0], 9, ours=5, now_s=0) is Meeting.PAST
    assert seen.meet(SALTS[1], 4, ours=5, now_s=0) is Meeting.PAST
    assert seen.meet(SALTS[1], 5, ours=5, now_s=0) is Meeting.JUMP
    seen.jumped(SALTS[1], 5, ours=5, now_s=0)
    assert seen.meet(SALTS[1], 9, ours=6, now_s=0) is Meeting.JUMP


def test_it_is_the_same_other_process_within_ten_minutes() -> None:
    seen = Sightings(SALTS[0])
    seen.jumped(SALTS[1], 9, ours=5, now_s=0)
    assert seen.meet(b"z" * 16, 99, ours=10, now_s=1) is Meeting.JUMP
    assert seen.meet(SALTS[1], 99, ours=10, now_s=WINDOW_S - 1) is Meeting.CLONED
    assert seen.meet(SALTS[1], 99, ours=10, now_s=WINDOW_S) is Meeting.JUMP


def test_made_up_processes_fill_no_memory() -> None:
    seen = Sightings(SALTS[0])
    for number in range(3 * SEEN_MAX):
        seen.jumped(number.to_bytes(16, "big"), number + 1, ours=number, now_s=float(number))
    assert len(seen._seen_s) == SEEN_MAX


def copy_of(world: World, host: Host, name: str) -> Host:
    """A copy of a host's folder, as it is now, on another host."""
    storage = SimStorage()
    for table in ("self", "floors", "epochs", "revocations"):
        storage.write(table, dict(host.storage.read(table)), durable=True)
    copied = Host(name, host.identity, host.epochs, storage, FAST)
    world.hosts.append(copied)
    return copied


async def clones_end(seed: int, others: int, *, apart_s: float) -> None:
    async with world_of(seed, [FAST] * (others + 1)) as world:
        await everybody_ready(world)
        original, *rest = world.hosts
        await trio.sleep(apart_s)
        copy = copy_of(world, original, "10.0.0.99")
        await world.start(copy)
        await until(lambda: bool(world.cloned), timeout_s=120)
        await trio.sleep(900)
        assert len(world.cloned) == 1
        (stays,) = (host for host in (original, copy) if host.node is not None)
        peer_id = original.identity.peer_id
        for host in rest:
            connection = host.running.peers.connection(peer_id)
            assert connection is not None
            assert connection.remote.hello.boot_salt == stays.running.boot_salt
        answered = await world.ask(stays, "hello there")
        assert answered.finished.usage.completion_tokens > 0


def test_of_two_running_clones_exactly_one_ends() -> None:
    for seed in range(5):
        simulate(seed, lambda seed=seed: clones_end(seed, 2, apart_s=3.0 * seed))  # type: ignore[misc]


def test_one_peer_between_two_clones_is_enough() -> None:
    for seed in range(10, 15):
        simulate(seed, lambda seed=seed: clones_end(seed, 1, apart_s=0.0))  # type: ignore[misc]


def test_a_host_killed_and_restarted_five_times_in_ten_minutes_is_no_clone() -> None:
    async def main() -> None:
        async with world_of(20, [FAST] * 3) as world:
            await everybody_ready(world)
            host = world.hosts[0]
            for _ in range(5):
                await world.restart(host)
                await trio.sleep(60)
            assert not world.cloned
            await everybody_ready(world)

    simulate(20, main)


def test_a_host_restored_from_an_old_copy_again_and_again_is_no_clone() -> None:
    async def main() -> None:
        async with world_of(21, [FAST] * 3) as world:
            await everybody_ready(world)
            host = world.hosts[0]
            old = {table: dict(host.storage.read(table)) for table in ("self", "floors", "epochs")}
            for _ in range(5):
                world.kill(host)
                await until(lambda: host.node is None)
                host.storage = SimStorage()
                for table, rows in old.items():
                    host.storage.write(table, rows, durable=True)
                await world.start(host)
                await trio.sleep(30)
            assert not world.cloned
            await everybody_ready(world)

    simulate(21, main)
