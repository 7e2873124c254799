"""What a directed link of the switch does to frames: decisions alone, seeded, without a clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.bursts import Bursts
from chaos.faults import link
from chaos.faults.fault import Fault
from chaos.modes.effects import Effects
from chaos.modes.live import links
from chaos.modes.live.frames import ETHERNET_BYTES, flipped
from chaos.modes.live.weather import LinkWeather, Shape
from chaos.modes.live.wire import UNDER_WAY_MAX, Wire
from chaos.scenario.schedule import PlannedFault
from tests.chaos.live.frames import ARP, EVERYBODY, frame

FRAMES = [frame("a", "b", bytes([number % 256]) * 50) for number in range(2000)]


@contextmanager
def under(
    make: Callable[[PlannedFault, Effects, Random], Shape], fault: Fault, seed: int = 1
) -> Iterator[tuple[Wire, Effects]]:
    """A wire whose weather has one fault."""
    weather, effects = LinkWeather(), Effects()
    planned = PlannedFault(id="f", fault=fault, at=0.0, for_s=None)
    with weather.under("f", make(planned, effects, Random(seed))):
        yield Wire(weather), effects


def carried(wire: Wire, frames: list[bytes] = FRAMES) -> list[tuple[float, bytes]]:
    """What comes of frames that are sent a millisecond apart, each taken at once."""
    found = []
    for number, each in enumerate(frames):
        due = wire.carry(each, number / 1000)
        for _ in due:
            wire.arrived()
        found += due
    return found


def arrivals(due: list[tuple[float, bytes]]) -> list[bytes]:
    return [each for _, each in sorted(due, key=lambda pair: pair[0])]


def test_a_fair_link_carries_everything_at_once() -> None:
    wire = Wire(LinkWeather())
    assert carried(wire) == [(number / 1000, each) for number, each in enumerate(FRAMES)]
    assert wire.under_way == 0


CASES = [
    (links._loss, link.Loss(fraction=0.2)),
    (links._loss, link.Loss(fraction=0.2, burst=5)),
    (links._duplicate, link.Duplicate(fraction=0.2)),
    (links._reorder, link.Reorder(fraction=0.2, gap_ms=30)),
    (links._corrupt, link.Corrupt(fraction=0.2)),
]


@pytest.mark.parametrize(("make", "fault"), CASES)
def test_a_fault_touches_the_share_that_it_says_and_its_seed_decides_which(
    make: Callable[[PlannedFault, Effects, Random], Shape], fault: Fault
) -> None:
    def once(seed: int) -> tuple[list[tuple[float, bytes]], int]:
        with under(make, fault, seed) as (wire, effects):
            return carried(wire), effects.count

    first, count = once(1)
    assert first == once(1)[0]
    assert first != once(2)[0]
    assert 0.15 * len(FRAMES) < count < 0.25 * len(FRAMES)


@pytest.mark.parametrize(("fraction", "length"), [(0.1, 1), (0.2, 8), (0.9, 3), (1.0, 1), (0.0, 4)])
def test_bursts_lose_their_share_in_runs_of_their_length(fraction: float, length: float) -> None:
    bursts = Bursts(fraction, length, Random(1))
    drawn = "".join("x" if bursts.loses() else "." for _ in range(100_000))
    assert drawn.count("x") / len(drawn) == pytest.approx(fraction, abs=0.02)
    runs = [run for run in drawn.split(".") if run]
    if 0 < fraction < 0.5 and length > 1:
        assert sum(map(len, runs)) / len(runs) == pytest.approx(length, rel=0.1)


def test_jitter_keeps_the_order() -> None:
    with under(links._jitter, link.Jitter(delay_ms=20, spread_ms=15)) as (wire, effects):
        due = carried(wire)
    assert arrivals(due) == FRAMES
    assert effects.count == len(FRAMES)
    times_s = [due_s - number / 1000 for number, (due_s, _) in enumerate(due)]
    assert min(times_s) > 0.01
    assert len(set(times_s)) > len(FRAMES) / 4


def test_only_what_is_held_back_is_overtaken() -> None:
    with under(links._reorder, link.Reorder(fraction=0.2, gap_ms=30)) as (wire, _):
        due = carried(wire)
    late = [number for number, (due_s, _) in enumerate(due) if due_s > number / 1000]
    assert all(due[number][0] == pytest.approx(number / 1000 + 0.03) for number in late)
    assert 0 < len(late) < len(due)


def test_a_doubled_frame_comes_twice_and_a_damaged_one_differs_in_one_bit() -> None:
    with under(links._duplicate, link.Duplicate(fraction=1)) as (wire, _):
        assert wire.carry(FRAMES[0], 1.0) == [(1.0, FRAMES[0])] * 2
    with under(links._corrupt, link.Corrupt(fraction=1)) as (wire, effects):
        ((_, came),) = wire.carry(FRAMES[0], 1.0)
        differing = int.from_bytes(came) ^ int.from_bytes(FRAMES[0])
        assert differing.bit_count() == 1
        assert came[:ETHERNET_BYTES] == FRAMES[0][:ETHERNET_BYTES]
        question = frame("a", EVERYBODY, kind=ARP)
        assert wire.carry(question, 1.0) == [(1.0, question)], "it has no checksum"
        assert effects.count == 1


@given(st.binary(max_size=200), st.integers(0, 100))
def test_damage_keeps_size_and_addresses_of_any_frame(data: bytes, seed: int) -> None:
    came = flipped(data, Random(seed))
    assert len(came) == len(data)
    assert came[:ETHERNET_BYTES] == data[:ETHERNET_BYTES]


def test_above_its_size_nothing_arrives() -> None:
    with under(links._mtu, link.Mtu(size_bytes=100)) as (wire, effects):
        assert wire.carry(frame("a", "b", bytes(100)), 1.0)
        assert not wire.carry(frame("a", "b", bytes(101)), 1.0)
    assert effects.count == 1


def test_a_link_carries_no_more_than_its_rate_and_queues_no_more_than_its_bound() -> None:
    body = frame("a", "b", bytes(1000 - ETHERNET_BYTES))
    with under(links._bandwidth, link.Bandwidth(kbytes_per_s=100)) as (wire, _):
        due = [each for _ in range(UNDER_WAY_MAX + 5) for each in wire.carry(body, 0.0)]
        assert [due_s for due_s, _ in due[:3]] == pytest.approx([0.01, 0.02, 0.03])
        assert len(due) == UNDER_WAY_MAX
        wire.arrived()
        ((due_s, _),) = wire.carry(body, 0.0)
        assert due_s == pytest.approx((UNDER_WAY_MAX + 6) / 100, rel=0.01)


@pytest.mark.parametrize("shape", [{"cuts": True}, {"swallows": True}])
def test_a_cut_link_loses_everything(shape: dict[str, bool]) -> None:
    weather, effects = LinkWeather(), Effects()
    wire = Wire(weather)
    with weather.under("f", Shape(on_effect=effects.add, **shape)):
        assert carried(wire) == []
    assert effects.count == len(FRAMES)
    assert len(carried(wire)) == len(FRAMES)


def test_what_is_held_comes_in_the_end_and_before_what_follows() -> None:
    weather, effects = LinkWeather(), Effects()
    wire = Wire(weather)
    with weather.under("f", Shape(on_effect=effects.add, holds=True)):
        assert wire.carry(FRAMES[0], 1.0) == []
        assert wire.carry(FRAMES[1], 2.0) == []
    assert wire.carry(FRAMES[2], 3.0) == [], "the two before it are not let go yet"
    assert wire.release(3.0) == [(3.0, each) for each in FRAMES[:3]]
    assert wire.carry(FRAMES[3], 3.0) == [(3.0, FRAMES[3])]
    assert (wire.under_way, effects.count) == (4, 2)


def test_what_is_held_is_lost_where_the_link_is_cut_when_it_is_let_go() -> None:
    weather = LinkWeather()
    wire = Wire(weather)
    with weather.under("jam", Shape(on_effect=lambda: None, holds=True)):
        assert wire.carry(FRAMES[0], 1.0) == []
    with weather.under("cut", Shape(on_effect=lambda: None, cuts=True)):
        assert wire.release(2.0) == []
    assert wire.under_way == 0
    assert wire.carry(FRAMES[1], 3.0) == [(3.0, FRAMES[1])]


def test_what_is_held_is_bounded() -> None:
    weather = LinkWeather()
    wire = Wire(weather)
    with weather.under("f", Shape(on_effect=lambda: None, holds=True)):
        for each in FRAMES:
            assert wire.carry(each, 0.0) == []
    assert len(wire.release(1.0)) == UNDER_WAY_MAX


def test_faults_on_one_link_draw_each_by_itself() -> None:
    """What one fault loses is the same with another one beside it."""

    def lost(*beside: Shape) -> set[int]:
        weather = LinkWeather()
        bursts = Bursts(0.3, 1, Random(1))
        with ExitStack() as stack:
            for number, shape in enumerate(beside):
                stack.enter_context(weather.under(f"g{number}", shape))
            shape = Shape(on_effect=lambda: None, loses=bursts.loses)
            stack.enter_context(weather.under("f", shape))
            wire = Wire(weather)
            return {number for number, each in enumerate(FRAMES) if not wire.carry(each, 0.0)}

    other = Bursts(0.3, 1, Random(2))
    alone, both = lost(), lost(Shape(on_effect=lambda: None, loses=other.loses))
    early = {number for number in alone if number < UNDER_WAY_MAX}
    assert early <= both
    assert len(both) > len(alone)
