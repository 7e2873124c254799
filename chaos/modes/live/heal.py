"""What a crashed harness leaves behind, found by run tag and removed; nothing else is touched.

Processes are found by the tag in their environment, folders by the tag in their name. A run whose
harness still lives is left alone. Namespaces and TAP devices of a run have no name and nothing that
keeps them but the harness and the processes: with these they are gone. Linux only, like live mode.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from chaos.modes.live.tag import PREFIX, PROC, VARIABLE, started_ticks
from overlay.errors import HomeError
from overlay.home import Home

WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something of a run. ``kind`` is process or folder: sockets end with their processes."""

    kind: str
    run: str
    name: str


def is_over(run: str) -> bool:
    """Whether the harness of a run is gone, going by the run's tag."""
    pid, _, rest = run.partition("-")
    ticks, _, _ = rest.partition("-")
    if not (pid.isdigit() and ticks.isdigit()):
        return True
    return started_ticks(int(pid)) != int(ticks)


def processes_of(run: str | None = None) -> Iterator[tuple[int, str]]:
    """Processes that carry a run's tag, or any run's: their ids and runs."""
    for entry in sorted(PROC.iterdir()):
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            found = run_of(int(entry.name))
            if found is not None and run in {None, found}:
                yield int(entry.name), found


def run_of(pid: int) -> str | None:
    """The run that a living process of this user is of, if any."""
    wanted, entry = f"{VARIABLE}=".encode(), PROC / str(pid)
    with suppress(OSError):
        if entry.stat().st_uid == os.getuid() and started_ticks(pid):
            for word in (entry / "environ").read_bytes().split(b"\0"):
                if word.startswith(wanted):
                    return word[len(wanted) :].decode("ascii", "replace")
    return None


def folders() -> Iterator[tuple[Path, str]]:
    """Folders of runs, and the runs."""
    for path in sorted(Path(tempfile.gettempdir()).glob(f"{PREFIX}*")):
        if path.is_dir() and not path.is_symlink() and path.stat().st_uid == os.getuid():
            yield path, path.name.removeprefix(PREFIX)


def remove(folder: Path) -> None:
    """Removes a run's folder, and sockets that lie elsewhere because its path is a long one.

    Raises:
        OSError: Where it cannot be removed.
    """
    for record in folder.glob("*/control.path"):
        with suppress(HomeError):
            Home(record.parent).control_path().unlink(missing_ok=True)
    shutil.rmtree(folder)


def heal() -> list[Leftover]:
    """Removes what is left of runs whose harness is gone; doing it again does nothing more.

    Returns:
        What was removed.

    Raises:
        OSError: Where a folder cannot be removed.
    """
    removed = []
    for pid, run in list(processes_of()):
        if is_over(run) and _end(pid, run):
            removed.append(Leftover("process", run, str(pid)))
    for path, run in list(folders()):
        if is_over(run):
            remove(path)
            removed.append(Leftover("folder", run, str(path)))
    return removed


def _end(pid: int, run: str) -> bool:
    """Kills a process of a run and waits, as it may still write into its folder for a moment."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if run_of(pid) != run:
            return False  # it has ended by itself, and another has its id
        signal.pidfd_send_signal(process, signal.SIGKILL)
        ended = select.poll()
        ended.register(process, select.POLLIN)
        ended.poll(WAIT_S * 1000)
        return True
    finally:
        os.close(process)
