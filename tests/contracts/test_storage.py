"""The contract of ``overlay.ports.Storage``, for the real one and the simulated one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chaos.storage import SimStorage
from overlay.errors import StorageError, StorageFull
from overlay.ports import Storage
from overlay.storage import SqliteStorage

Open = Callable[[], Storage]
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(params=["sqlite", "simulated"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens one and the same storage, each time as a new process would."""
    if request.param == "sqlite":
        return lambda: SqliteStorage(tmp_path / "state.db")
    storage = SimStorage()
    return lambda: storage


def test_a_table_that_was_never_written_is_empty(reopen: Open) -> None:
    assert reopen().read("floors") == {}


def test_rows_are_read_in_the_order_of_their_keys(reopen: Open) -> None:
    storage = reopen()
    for key in (b"b", b"\xff", b"", b"a\x00", b"a"):
        storage.write("floors", {key: key + b"!"})
    assert list(storage.read("floors").items()) == [
        (key, key + b"!") for key in (b"", b"a", b"a\x00", b"b", b"\xff")
    ]


def test_a_later_row_takes_the_place_of_an_earlier_one(reopen: Open) -> None:
    storage = reopen()
    storage.write("floors", {b"a": b"1", b"b": b"1"})
    storage.write("floors", {b"a": b"2"})
    assert storage.read("floors") == {b"a": b"2", b"b": b"1"}


def test_none_deletes_a_row_and_is_nothing_for_one_that_is_not_there(reopen: Open) -> None:
    storage = reopen()
    storage.write("floors", {b"a": b"1", b"b": b""})
    storage.write("floors", {b"a": None, b"c": None})
    assert storage.read("floors") == {b"b": b""}


def test_tables_are_kept_apart(reopen: Open) -> None:
    storage = reopen()
    storage.write("floors", {b"a": b"1"})
    storage.write("epochs", {b"a": b"2"})
    assert storage.read("floors") == {b"a": b"1"}
    assert storage.read("epochs") == {b"a": b"2"}


@pytest.mark.parametrize("durable", [False, True])
def test_what_was_written_is_there_when_it_is_opened_again(reopen: Open, durable: bool) -> None:
    reopen().write("floors", {b"a": bytes(100_000), b"b": b"2"}, durable=durable)
    assert reopen().read("floors") == {b"a": bytes(100_000), b"b": b"2"}


def test_what_is_read_is_a_copy(reopen: Open) -> None:
    storage = reopen()
    storage.write("floors", {b"a": b"1"})
    before = storage.read("floors")
    storage.write("floors", {b"a": b"2"})
    assert before == {b"a": b"1"}


def test_a_batch_that_fails_leaves_nothing_of_itself(reopen: Open) -> None:
    storage = reopen()
    storage.write("floors", {b"a": b"1"})
    with pytest.raises(StorageError):
        storage.write("floors", {b"a": None, b"b": b"2", b"c": object()})  # type: ignore[dict-item]
    assert storage.read("floors") == {b"a": b"1"}
    storage.write("floors", {b"b": b"3"})
    assert storage.read("floors") == {b"a": b"1", b"b": b"3"}


@contextmanager
def full(storage: Storage) -> Iterator[None]:
    """A disk with no room for what comes: a page limit stands in for it under SQLite."""
    if isinstance(storage, SimStorage):
        storage.full = True
        yield
        storage.full = False
        return
    assert isinstance(storage, SqliteStorage)
    database = storage._database
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    database.execute(f"PRAGMA max_page_count = {pages}")
    yield
    database.execute("PRAGMA max_page_count = 1073741823")


@pytest.mark.parametrize("durable", [False, True])
def test_a_full_disk_refuses_the_whole_batch_and_keeps_what_was_there(
    reopen: Open, durable: bool
) -> None:
    storage = reopen()
    storage.write("floors", {b"a": b"1"})
    with full(storage):
        with pytest.raises(StorageFull):
            storage.write("floors", {b"a": None, b"b": bytes(100_000)}, durable=durable)
        assert storage.read("floors") == {b"a": b"1"}
    storage.write("floors", {b"b": b"2"}, durable=durable)
    assert storage.read("floors") == {b"a": b"1", b"b": b"2"}
    assert reopen().read("floors") == {b"a": b"1", b"b": b"2"}


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from overlay.errors import StorageFull
from overlay.storage import SqliteStorage

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
storage = SqliteStorage(path)
storage.write("floors", {b"a": b"1"}, durable=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
full = 0
for number in range(3):
    try:
        storage.write("floors", {b"a": None, b"big": bytes(400_000)}, durable=number == 1)
    except StorageFull:
        full += 1
assert storage.read("floors") == {b"a": b"1"}, storage.read("floors").keys()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
storage.write("floors", {b"b": bytes(400_000)})
storage.close()
assert SqliteStorage(path).read("floors") == {b"a": b"1", b"b": bytes(400_000)}
print("full", full)
"""


def test_a_full_disk_is_named_so_and_keeps_what_was_there(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "state.db")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "full 3\n", done.stderr


def test_what_was_not_written_durably_may_be_gone_after_a_loss_of_power() -> None:
    storage = SimStorage()
    storage.write("self", {b"a": b"1"}, durable=True)
    storage.write("self", {b"a": b"2"})
    assert storage.read("self") == {b"a": b"2"}
    storage.crash_machine()
    assert storage.read("self") == {b"a": b"1"}


@pytest.mark.parametrize("table", ["", "a b", "A", "x" * 33, "t; DROP TABLE self", "a1"])
def test_a_table_has_a_plain_name(tmp_path: Path, table: str) -> None:
    with pytest.raises(StorageError):
        SqliteStorage(tmp_path / "state.db").read(table)


def test_a_file_that_is_no_database_is_said_to_be_unusable(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StorageError, match=r"state\.db"):
        SqliteStorage(path).read("floors")


def test_nobody_else_may_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    SqliteStorage(path).write("floors", {b"a": b"1"})
    for file in tmp_path.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file.name
