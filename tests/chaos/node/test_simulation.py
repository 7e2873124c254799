"""Stopped tasks, spins and deadlocks under the virtual clock."""

from __future__ import annotations

import pytest
import trio

from chaos.simulation import SimulationStuck, hold_tasks, release_tasks, run_simulation


def test_held_tasks_stand_still_and_catch_up_as_after_a_stop_signal() -> None:
    async def main() -> list[float]:
        woken: list[float] = []

        async def process(
            task_status: trio.TaskStatus[trio.lowlevel.Task] = trio.TASK_STATUS_IGNORED,
        ) -> None:
            async with trio.open_nursery() as nursery:
                task_status.started(trio.lowlevel.current_task())

                async def tick() -> None:
                    while True:
                        await trio.sleep(1)
                        woken.append(trio.current_time())

                nursery.start_soon(tick)

        async with trio.open_nursery() as nursery:
            root = await nursery.start(process)
            await trio.sleep(2.5)
            hold_tasks(root)
            await trio.sleep(5)
            release_tasks(root)
            release_tasks(root)
            await trio.sleep(2.2)
            nursery.cancel_scope.cancel()
        return woken

    assert run_simulation(1, main) == [1.0, 2.0, 7.5, 8.5, 9.5]


def test_a_task_that_is_started_below_a_held_one_waits_too() -> None:
    async def main() -> list[float]:
        began: list[float] = []

        async def process(
            task_status: trio.TaskStatus[trio.Nursery] = trio.TASK_STATUS_IGNORED,
        ) -> None:
            async with trio.open_nursery() as nursery:
                task_status.started(nursery)
                await trio.sleep_forever()

        async def work() -> None:
            began.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            inner = await nursery.start(process)
            hold_tasks(inner.parent_task)
            inner.start_soon(work)
            await trio.sleep(3)
            release_tasks(inner.parent_task)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        return began

    assert run_simulation(1, main) == [3.0]


async def _spin() -> None:
    while True:
        await trio.lowlevel.checkpoint()


async def _deadlock() -> None:
    await trio.sleep_forever()


def test_a_spin_without_time_passing_is_stuck() -> None:
    with pytest.raises(SimulationStuck, match=r"turns at 0\.0"):
        run_simulation(1, _spin)


def test_a_deadlock_is_stuck_when_its_time_is_over() -> None:
    with pytest.raises(SimulationStuck, match="still running after 10"):
        run_simulation(1, _deadlock, limit_s=10)


def test_a_deadlock_behind_held_tasks_is_stuck_and_not_a_spin_for_ever() -> None:
    async def main() -> None:
        async def process(
            task_status: trio.TaskStatus[trio.lowlevel.Task] = trio.TASK_STATUS_IGNORED,
        ) -> None:
            task_status.started(trio.lowlevel.current_task())
            await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            hold_tasks(await nursery.start(process))

    with pytest.raises(SimulationStuck):
        run_simulation(1, main, limit_s=10)
