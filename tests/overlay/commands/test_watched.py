"""Long work under signals: it is ended once, cleans up, and threads of others end with it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

import pytest

from overlay.commands.watched import watched

Say = Callable[[str, float], None]


def test_the_result_comes_back_and_each_stage_is_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def work(say: Say) -> int:
        for share in (0.0, 0.5, 1.0):
            say("first", share)
        say("second", 0.0)
        return 3

    assert watched(work) == 3
    assert capsys.readouterr().err == "# first\n# second\n"


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_the_work_which_cleans_up(number: signal.Signals, code: int) -> None:
    before, cleaned = signal.getsignal(number), []

    def work(_: Say) -> None:
        try:
            signal.raise_signal(number)
        finally:
            cleaned.append(number)

    with pytest.raises(SystemExit) as caught:
        watched(work)
    assert (caught.value.code, cleaned) == (code, [number])
    assert signal.getsignal(number) is before


def test_a_thread_of_the_work_ends_at_its_next_step() -> None:
    ended: list[BaseException] = []

    def work(say: Say) -> None:
        go = threading.Event()

        def step() -> None:
            go.wait(10)
            try:
                say("a step", 0.5)
            except KeyboardInterrupt as error:
                ended.append(error)

        thread = threading.Thread(target=step)
        thread.start()
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            go.set()
            thread.join()

    with pytest.raises(SystemExit):
        watched(work)
    assert len(ended) == 1


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert watched(lambda _: signal.raise_signal(signal.SIGHUP)) is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_errors_pass() -> None:
    def work(_: Say) -> None:
        raise OSError(28, "full")

    with pytest.raises(OSError, match="full"):
        watched(work)
