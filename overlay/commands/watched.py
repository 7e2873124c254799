"""Long work in this process with its progress on stderr, that can be ended without leaving a mess.

The work may use threads of other libraries, which a signal does not reach: what ends them is that
the progress they report raises.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from inference.store.convert import Progress as Say

T = TypeVar("T")
END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SIGNAL_EXIT = 128
"""Added to a signal's number, as shells do."""


def exit_code(number: int) -> int:
    """What a process that a signal has ended exits with."""
    return SIGNAL_EXIT + number


def heard(signals: Sequence[signal.Signals]) -> list[signal.Signals]:
    """Those of the signals that are not ignored: what is, as under ``nohup``, stays so."""
    return [each for each in signals if signal.getsignal(each) is not signal.SIG_IGN]


def watched(work: Callable[[Say], T]) -> T:
    """The result of ``work``. A signal that asks to end raises in it, so that it cleans up."""
    told: list[int] = []
    with _told_to_end(told), _shown() as show:

        def say(what: str, share: float) -> None:
            if told:
                raise KeyboardInterrupt
            show(what, share)

        try:
            return work(say)
        except BaseException:
            if told:
                sys.exit(exit_code(told[0]))
            raise


@contextmanager
def _told_to_end(told: list[int]) -> Iterator[None]:
    """Signals raise here and are noted; those that are ignored, as under ``nohup``, stay so."""

    def end(number: int, _frame: FrameType | None) -> None:
        told.append(number)
        raise KeyboardInterrupt

    before = {each: signal.getsignal(each) for each in heard(END_SIGNALS)}
    for each in before:
        signal.signal(each, end)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextmanager
def _shown() -> Iterator[Say]:
    """Bars on a terminal, else one line for each thing that is done."""
    # The stream itself, since a conversion hides what libraries write to sys.stderr meanwhile.
    console = Console(file=sys.stderr, stderr=True)
    tasks: dict[str, TaskID] = {}
    if not console.is_terminal:

        def line(what: str, _share: float) -> None:
            if what not in tasks:
                tasks[what] = TaskID(len(tasks))
                click.echo(f"# {what}", err=True)

        yield line
        return
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    drawn = Progress(
        *columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False
    )
    with drawn:

        def bar(what: str, share: float) -> None:
            if what not in tasks:
                tasks[what] = drawn.add_task(what, total=None)
            # Nothing done yet may mean that nobody can tell: the bar moves without a length.
            drawn.update(tasks[what], total=1.0 if share else None, completed=share)

        yield bar
