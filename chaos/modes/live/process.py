"""The processes of live nodes: started with the run's tag, ended by their own ids only.

Two things end a node when its harness is gone, however that ended. Its standard input is a pipe
that only the harness holds open, and when it closes the node ends by itself. And Linux kills it
(``PR_SET_PDEATHSIG``), which reaches plain peers and stopped processes too. The system counts the
thread that forked as the parent, so processes are started from the harness's main thread, never
from one of trio's threads, which come and go.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec
import trio

from chaos.errors import ChaosError
from chaos.modes.live.orders import LINE_BYTES_MAX, AnyOrder, Done, Told, decode_fact, encode
from chaos.modes.live.tag import VARIABLE, RunTag

KILL_WAIT_S = 10.0
ORDER_S = 20.0
"""A node that runs carries an order out within so much; its host may be busy."""

LOOK_S = 0.5
LOG_LINES_SHOWN = 12

FACTS = "RHIZOME_CHAOS_FACTS"
"""Environment variable of a live node: the descriptor that it tells facts on."""

PR_SET_PDEATHSIG = 1


class NodeEnded(ChaosError):
    """A node ended before it had carried an order out."""


@dataclass(eq=False)
class NodeProcess:
    """One boot of a node. ``on_told`` hears what the node tells of itself.

    ``stopped`` are keys of what keeps it stopped, ``stops`` counts how often it was.
    """

    process: trio.Process
    facts: trio.lowlevel.FdStream | None
    on_told: Callable[[Told], None]
    log: Path
    stopped: set[str] = field(default_factory=set)
    stops: int = 0
    _done: dict[int, Done] = field(default_factory=dict)
    _waiting: dict[int, trio.Event] = field(default_factory=dict)
    _orders: int = 0
    _ended: bool = False
    _saying: trio.Lock = field(default_factory=trio.Lock)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    async def read_facts(self) -> None:
        """Takes the node's facts in until it ends.

        Raises:
            ChaosError: For what is no fact.
        """
        if self.facts is None:
            return
        waiting = b""
        try:
            async with self.facts:
                while data := await self.facts.receive_some():
                    *lines, waiting = (waiting + data).split(b"\n")
                    for line in lines:
                        self._take(line)
                    if len(waiting) > LINE_BYTES_MAX:
                        raise ChaosError(f"a live node wrote a line of over {LINE_BYTES_MAX} bytes")
        finally:
            self._ended = True
            for came in self._waiting.values():
                came.set()

    def _take(self, line: bytes) -> None:
        try:
            fact = decode_fact(line)
        except msgspec.DecodeError as error:
            raise ChaosError(f"a live node wrote what is no fact: {error}") from None
        if not isinstance(fact, Done):
            self.on_told(fact)
        elif fact.number in self._waiting:
            self._done[fact.number] = fact
            self._waiting[fact.number].set()

    async def order(self, make: Callable[[int], AnyOrder]) -> Done:
        """Has the node do something; returns when it has. One that is stopped does it later.

        Raises:
            NodeEnded: When the node ends before it has.
            ChaosError: When the node runs and does not, or takes no orders.
        """
        if self.process.stdin is None or self.facts is None:
            raise ChaosError("a plain peer takes no orders")
        self._orders += 1
        number = self._orders
        came = self._waiting[number] = trio.Event()
        try:
            async with self._saying:
                await self.process.stdin.send_all(encode(make(number)) + b"\n")
            left_s = ORDER_S
            while number not in self._done:
                if self._ended or not self.runs:
                    raise NodeEnded("the node ended before it had carried an order out")
                if left_s <= 0:
                    raise ChaosError(f"the node did not carry out an order within {ORDER_S:g} s")
                with trio.move_on_after(LOOK_S):
                    await came.wait()
                left_s -= 0.0 if self.stopped else LOOK_S
            return self._done.pop(number)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise NodeEnded("the node ended before it took an order") from None
        finally:
            del self._waiting[number]

    def stop(self, key: str) -> None:
        """SIGSTOP, until every key has been taken back."""
        self.stopped.add(key)
        self.stops += 1
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self, key: str) -> None:
        """SIGCONT, where no other key is left."""
        if key in self.stopped:
            self.stopped.discard(key)
            if not self.stopped and self.runs:
                self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, which a stopped process obeys too."""
        if self.runs:
            self.process.send_signal(signal.SIGKILL)

    async def gone(self) -> None:
        """Waits for the end of a process that was told to end, and forces it in the end."""
        with trio.CancelScope(shield=True):
            with trio.move_on_after(KILL_WAIT_S):
                await self.process.wait()
                return
            self.kill()
            await self.process.wait()

    def last_words(self) -> str:
        """The end of its log."""
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        return "\n".join(lines)


def start_node(
    tag: RunTag, home: Path, flags: Sequence[str], on_told: Callable[[Told], None]
) -> NodeProcess:
    """Starts a live node, which takes orders and tells facts."""
    reader, writer = os.pipe()
    try:
        process = _open(
            ["-m", "chaos.node", "--home", str(home), *flags],
            log=_log_of(home),
            stdin=subprocess.PIPE,
            environment={**_environment(tag), FACTS: str(writer)},
            pass_fds=(writer,),
        )
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    return NodeProcess(process, trio.lowlevel.FdStream(reader), on_told, _log_of(home))


def start_plain(tag: RunTag, home: Path, flags: Sequence[str]) -> NodeProcess:
    """Starts ``rhizome peer`` itself, which knows nothing of orders and pipes."""
    process = _open(
        ["-m", "overlay", "peer", "--home", str(home), *flags],
        log=_log_of(home),
        stdin=subprocess.DEVNULL,
        environment=_environment(tag),
    )
    return NodeProcess(process, None, lambda _: None, _log_of(home))


def _open(
    arguments: Sequence[str],
    *,
    log: Path,
    stdin: int,
    environment: dict[str, str],
    pass_fds: Sequence[int] = (),
) -> trio.Process:
    """Starts Python in a session of its own, so that Ctrl-C at the harness does not reach it."""
    with log.open("ab") as out:
        popen = subprocess.Popen(  # noqa: S603 - our own program, with arguments of ours
            [sys.executable, *arguments],
            stdin=stdin,
            stdout=out,
            stderr=out,
            env=environment,
            pass_fds=pass_fds,
            start_new_session=True,
            preexec_fn=partial(_die_with, os.getpid()),  # noqa: PLW1509 - it takes no lock
        )
    orders = None
    if popen.stdin is not None:
        orders = trio.lowlevel.FdStream(os.dup(popen.stdin.fileno()))
        popen.stdin.close()
    # trio.lowlevel.open_process would fork in a thread that ends before the harness does.
    return trio.Process._create(popen, orders, None, None)


def _log_of(home: Path) -> Path:
    return home.with_suffix(".log")


def _environment(tag: RunTag) -> dict[str, str]:
    return {**os.environ, VARIABLE: tag.text}


_LIBC = ctypes.CDLL(None)


def _die_with(parent: int) -> None:
    """Between fork and exec: Linux kills this process when its parent is gone."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it was gone already
