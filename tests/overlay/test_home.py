"""The state folder: private, locked, of one overlay, replaced whole or not at all."""

from __future__ import annotations

import os
import resource
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from overlay import home as home_module
from overlay.errors import HomeError, StorageFull
from overlay.home import SOCKET_PATH_BYTES_MAX, Home, HomeFile, home_path

ROOT = os.geteuid() == 0


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "state")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def one_line(caught: pytest.ExceptionInfo[HomeError]) -> str:
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_the_flag_wins_over_the_variable_over_the_platform(tmp_path: Path) -> None:
    variable = {"RHIZOME_HOME": str(tmp_path / "b")}
    assert home_path(str(tmp_path / "a"), variable) == tmp_path / "a"
    assert home_path(None, variable) == tmp_path / "b"
    assert home_path(None, {}).name == "rhizome"
    assert home_path("relative", {}).is_absolute()
    assert "~" not in str(home_path("~/x", {}))


def test_the_folder_and_its_files_are_ours_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        home = Home.create(tmp_path / "a" / "state")
        home.write(HomeFile.HOST_KEYS, b"secret")
        home.write_epoch("00ff", b"epoch")
        home.write_config_template("# nothing\n")
        with home.locked():
            pass
    finally:
        os.umask(before)
    assert mode_of(home.path) == 0o700
    for path in home.path.rglob("*"):
        assert mode_of(path) == (0o700 if path.is_dir() else 0o600), path


def test_the_process_that_holds_it_is_known_and_one_that_has_gone_is_not(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "h")
    assert home.process() is None
    with home.locked():
        assert home.process() == os.getpid()
    assert home.process() is None
    for left_behind in (b"999999999\n", b"9" * 30, b"x", b"-1"):
        (home.path / "lock").write_bytes(left_behind)
        assert home.process() is None


def test_what_is_written_is_read_back(home: Home) -> None:
    assert home.read(HomeFile.LEAF) is None
    assert not home.is_member
    home.write(HomeFile.LEAF, b"\x00leaf")
    home.write(HomeFile.HOST_KEYS, b"keys")
    home.write(HomeFile.LEAF, b"second")
    assert Home(home.path).need(HomeFile.LEAF) == b"second"
    assert home.is_member
    home.remove(HomeFile.LEAF)
    home.remove(HomeFile.LEAF)
    assert home.read(HomeFile.LEAF) is None


def test_epochs_are_read_back_sorted(home: Home) -> None:
    assert home.read_epochs() == {}
    for name in ("ff", "00", "0a"):
        home.write_epoch(name, name.encode())
    (home.path / "epochs" / ".00.new").write_bytes(b"left by a crash")
    assert list(home.read_epochs().items()) == [("00", b"00"), ("0a", b"0a"), ("ff", b"ff")]


def test_a_missing_file_says_what_to_run(home: Home) -> None:
    with pytest.raises(HomeError) as caught:
        home.need(HomeFile.LEAF)
    assert "run 'rhizome init'" in one_line(caught)


def test_a_missing_folder_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(HomeError) as caught:
        Home(tmp_path / "nothing")
    assert "there is no" in one_line(caught)
    assert "rhizome join TICKET" in one_line(caught)


def test_a_folder_open_to_others_is_refused_with_the_command_that_closes_it(home: Home) -> None:
    home.path.chmod(0o755)
    with pytest.raises(HomeError) as caught:
        Home(home.path)
    assert f"(mode 0755): run chmod go= '{home.path}'" in one_line(caught)


def test_a_secret_open_to_others_is_refused(home: Home) -> None:
    home.write(HomeFile.HOST_KEYS, b"keys")
    (home.path / "host.keys").chmod(0o640)
    with pytest.raises(HomeError, match="mode 0640"):
        home.read(HomeFile.HOST_KEYS)


@pytest.mark.skipif(not ROOT, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(home: Home) -> None:
    os.chown(home.path, 12345, -1)
    with pytest.raises(HomeError, match="belongs to user 12345, and this is user 0"):
        Home(home.path)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(HomeError, match="is not a folder"):
        Home.create(tmp_path / "file")
    with pytest.raises(HomeError, match="cannot be used"):
        Home.create(tmp_path / "file" / "below")


def test_a_planted_link_is_not_followed(home: Home, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    (home.path / "leaf.der").symlink_to(target)
    with pytest.raises(HomeError, match="cannot be used"):
        home.read(HomeFile.LEAF)
    (home.path / ".leaf.der.new").symlink_to(target)
    home.write(HomeFile.LEAF, b"leaf")
    assert target.read_bytes() == b"precious"
    assert home.read(HomeFile.LEAF) == b"leaf"


def test_a_pipe_in_place_of_a_file_is_refused_without_waiting(home: Home) -> None:
    os.mkfifo(home.path / "leaf.der", 0o600)
    with pytest.raises(HomeError, match="is not a file"):
        home.read(HomeFile.LEAF)


def test_a_damaged_huge_file_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home_module, "FILE_BYTES_MAX", 10)
    home.write(HomeFile.LEAF, b"x" * 11)
    with pytest.raises(HomeError, match="too large"):
        home.read(HomeFile.LEAF)


def test_a_folder_in_use_names_the_process_that_uses_it(home: Home) -> None:
    with home.locked():
        with pytest.raises(HomeError) as caught, Home(home.path).locked():
            pass
        assert f"is in use by process {os.getpid()}" in one_line(caught)
        assert "--home" in one_line(caught)
    with home.locked():
        pass


def test_the_lock_ends_with_a_killed_process(home: Home) -> None:
    program = (
        "import sys, pathlib; from overlay.home import Home\n"
        "with Home(pathlib.Path(sys.argv[1])).locked():\n"
        "    sys.stdout.write('held\\n'); sys.stdout.flush(); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(home.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(HomeError, match=f"process {holder.pid}"), home.locked():
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with home.locked():
        pass


def test_a_folder_belongs_to_one_overlay(home: Home) -> None:
    assert home.overlay_id() is None
    home.claim("aa" * 32)
    home.claim("aa" * 32)
    assert home.overlay_id() == "aa" * 32
    with pytest.raises(HomeError) as caught:
        home.claim("bb" * 32)
    assert "belongs to overlay aaaaaaaaaaaaaaaa, not to bbbbbbbbbbbbbbbb" in one_line(caught)


def test_the_settings_file_is_never_overwritten(home: Home) -> None:
    assert home.write_config_template("# first\n")
    assert not home.write_config_template("# second\n")
    assert home.config_path.read_text() == "# first\n"


def test_a_full_disk_keeps_the_old_file_and_leaves_no_rest(home: Home) -> None:
    home.write(HomeFile.AUTHORITY, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(StorageFull, match="no space is left"):
            home.write(HomeFile.AUTHORITY, b"new" * 4096)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert home.read(HomeFile.AUTHORITY) == b"old"
    assert sorted(path.name for path in home.path.iterdir()) == ["authority.bin"]


def test_a_crash_while_writing_leaves_the_old_file(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.write(HomeFile.LEAF, b"old")

    def crash(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(home_module.os, "fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        home.write(HomeFile.LEAF, b"new")
    monkeypatch.undo()
    assert home.read(HomeFile.LEAF) == b"old"
    home.write(HomeFile.LEAF, b"newer")
    assert home.read(HomeFile.LEAF) == b"newer"


def test_the_socket_is_in_the_folder_where_its_path_fits(home: Home) -> None:
    if len(os.fsencode(home.path)) < 80:
        assert home.control_path() == home.path / "control.sock"


def test_a_long_path_gets_a_short_socket_that_others_find_and_can_bind(tmp_path: Path) -> None:
    runtime = tmp_path / "run"
    if len(os.fsencode(runtime)) > SOCKET_PATH_BYTES_MAX - 25:
        pytest.skip("the temporary folder's own path is too long")
    deep = tmp_path / ("x" * 120)
    home = Home.create(deep, runtime=runtime)
    path = home.control_path()
    assert path.parent == runtime
    assert mode_of(runtime) == 0o700
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    elsewhere = Home(deep, runtime=tmp_path / "other").control_path()
    assert elsewhere == path
    other = Home.create(tmp_path / ("y" * 120), runtime=runtime)
    assert other.control_path() != path


def test_a_runtime_folder_that_vanished_is_made_again(tmp_path: Path) -> None:
    home = Home.create(tmp_path / ("x" * 120), runtime=tmp_path / "r")
    first = home.control_path()
    (tmp_path / "r").rmdir()
    assert home.control_path() == first
    assert (tmp_path / "r").is_dir()


def test_a_runtime_folder_open_to_others_is_refused(tmp_path: Path) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o755)
    runtime.chmod(0o777)
    with pytest.raises(HomeError, match="open to others"):
        Home.create(tmp_path / ("x" * 120), runtime=runtime).control_path()


def test_a_socket_path_that_fits_nowhere_says_so(tmp_path: Path) -> None:
    home = Home.create(tmp_path / ("x" * 120), runtime=tmp_path / ("r" * 120))
    with pytest.raises(HomeError, match="too long for a Unix socket: use a shorter --home"):
        home.control_path()
