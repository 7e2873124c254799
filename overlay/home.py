"""One folder with all state of a peer.

Rules: the folder is ours alone (0700) and every file in it too (0600); one process uses it at a
time (``flock`` on ``lock``, which ends with the process, however it ends); a file is replaced
whole or not at all; a folder belongs to one overlay for ever. What the files hold is bytes to this
module: keys, certificates and epochs are read and written by ``security``.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import hashlib
import os
import re
import stat
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import platformdirs

from overlay.errors import HomeError, StorageFull

APPLICATION = "rhizome"
HOME_VARIABLE = "RHIZOME_HOME"

FILE_BYTES_MAX = 16 << 20
"""Nothing that is kept as a file comes near this; more is damage."""

SOCKET_PATH_BYTES_MAX = 103
"""The shortest limit there is: 104 bytes with the closing zero on BSD and macOS, 108 on Linux."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FOLDER_MODE, _FILE_MODE = 0o700, 0o600
_EPOCH_NAME = re.compile(r"[0-9a-f]{1,64}")


class HomeFile(enum.Enum):
    """The files whose content ``security`` makes."""

    HOST_KEYS = "host.keys"
    ROOT = "root.der"
    ISSUER = "issuer.der"
    LEAF = "leaf.der"
    AUTHORITY = "authority.bin"
    OVERLAY = "overlay.id"
    ENROLMENT = "enrolment"
    ROOT_KEY = "root.key"
    ROOTS = "roots"
    NEXT_ROOT_KEY = "root-next.key"
    HTTP = "http.pem"
    ISSUER_KEY = "issuer.key"
    NEXT_ISSUER = "issuer.next.der"


class Files(Protocol):
    """Of a :class:`Home`, what an issuer needs of it."""

    def read(self, file: HomeFile) -> bytes | None: ...

    def need(self, file: HomeFile) -> bytes: ...

    def write(self, file: HomeFile, content: bytes) -> None: ...

    def remove(self, file: HomeFile) -> None: ...

    def write_epoch(self, name: str, content: bytes) -> None: ...


def home_path(flag: str | None, environment: Mapping[str, str]) -> Path:
    """Which folder is meant: the flag, else ``RHIZOME_HOME``, else the platform's place."""
    chosen = flag or environment.get(HOME_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    return Path(platformdirs.user_data_dir(APPLICATION, appauthor=False))


class Home:
    """An existing state folder, checked for owner and permissions when opened."""

    def __init__(self, path: Path, *, runtime: Path | None = None) -> None:
        """Opens a folder.

        Args:
            path: the folder.
            runtime: where a socket goes whose path in the folder would be too long; the
                platform's runtime folder if None.

        Raises:
            HomeError: when it is missing, not a folder, or open to others.
        """
        self.path = path.absolute()
        self._runtime = runtime
        _check_private(self.path, stat.S_ISDIR, "a folder")

    @classmethod
    def create(cls, path: Path, *, runtime: Path | None = None) -> Home:
        """Opens a folder, making it (and its parents) where it is missing.

        Raises:
            HomeError: when it cannot be made or used.
        """
        with _reported(path):
            with contextlib.suppress(FileExistsError):
                path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=_FOLDER_MODE)
        return cls(path, runtime=runtime)

    @property
    def config_path(self) -> Path:
        return self.path / "rhizome.toml"

    @property
    def database_path(self) -> Path:
        return self.path / "state.sqlite"

    @property
    def is_member(self) -> bool:
        """True once this folder holds a host of an overlay."""
        return self.read(HomeFile.HOST_KEYS) is not None and self.read(HomeFile.LEAF) is not None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder for this process.

        Raises:
            HomeError: when another process holds it; the message names its id.
        """
        path = self.path / "lock"
        with _reported(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, _FILE_MODE)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise HomeError(
                    f"{self.path} is in use by {_holder(descriptor)}: "
                    "stop it first, or use another folder with --home"
                ) from None
            with _reported(path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            try:
                yield
            finally:
                os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)

    def process(self) -> int | None:
        """The process that holds the folder; None where none does.

        By what it has written, not by a try: one would keep a peer that starts from its folder.
        """
        written = (self._read(self.path / "lock") or b"").strip()
        if not written.isdigit():
            return None
        try:
            os.kill(int(written), 0)
        except (OSError, OverflowError):
            return None
        return int(written)

    def read(self, file: HomeFile) -> bytes | None:
        """A file's content, None where there is none.

        Raises:
            HomeError: when it cannot be read or is open to others.
        """
        return self._read(self.path / file.value)

    def need(self, file: HomeFile) -> bytes:
        """A file's content.

        Raises:
            HomeError: when it is missing or cannot be read.
        """
        found = self.read(file)
        if found is None:
            raise HomeError(
                f"{self.path} holds no {file.value}: "
                "run 'rhizome init' for a new overlay or 'rhizome join TICKET' for an existing one"
            )
        return found

    def write(self, file: HomeFile, content: bytes) -> None:
        """Replaces a file; after a crash it is the old one or the new one.

        Raises:
            StorageFull: when no space is left.
            HomeError: when it cannot be written.
        """
        self._write(self.path / file.value, content)

    def remove(self, file: HomeFile) -> None:
        """Removes a file, where there is one."""
        with _reported(self.path / file.value):
            (self.path / file.value).unlink(missing_ok=True)

    def overlay_id(self) -> str | None:
        """The overlay that this folder belongs to, None for a fresh one."""
        found = self.read(HomeFile.OVERLAY)
        return None if found is None else found.decode("ascii", "replace").strip()

    def claim(self, overlay_id: str) -> None:
        """Makes this the folder of an overlay, or checks that it is.

        Raises:
            HomeError: when it belongs to another overlay.
        """
        owner = self.overlay_id()
        if owner is None:
            self.write(HomeFile.OVERLAY, f"{overlay_id}\n".encode("ascii"))
        elif owner != overlay_id:
            raise HomeError(
                f"{self.path} belongs to overlay {owner[:16]}, not to {overlay_id[:16]}: "
                "use another folder with --home"
            )

    def read_epochs(self) -> dict[str, bytes]:
        """Every stored EPOCH object by name, sorted by name."""
        folder = self.path / "epochs"
        if not folder.exists():
            return {}
        _check_private(folder, stat.S_ISDIR, "a folder")
        with _reported(folder):
            names = sorted(path.name for path in folder.iterdir())
        contents = {
            name: self._read(folder / name) for name in names if _EPOCH_NAME.fullmatch(name)
        }
        return {name: content for name, content in contents.items() if content is not None}

    def write_epoch(self, name: str, content: bytes) -> None:
        """Stores an EPOCH object under a name of hex digits, replacing one of that name."""
        assert _EPOCH_NAME.fullmatch(name)
        folder = self.path / "epochs"
        with _reported(folder):
            folder.mkdir(mode=_FOLDER_MODE, exist_ok=True)
        self._write(folder / name, content)

    def write_config_template(self, content: str) -> bool:
        """Writes ``rhizome.toml`` unless there is one; True where it was written."""
        if self.config_path.exists():
            return False
        self._write(self.config_path, content.encode())
        return True

    def control_path(self) -> Path:
        """Where the running peer's Unix socket is: the same for the peer and its commands.

        In the folder, or where that path is too long for a Unix socket, under a hash of it in a
        runtime folder of this user; which one was taken is kept in ``control.path``.

        Raises:
            HomeError: when the runtime folder is not ours alone, or too long itself.
        """
        path = self.path / "control.sock"
        if _fits_a_socket(path):
            return path
        record = self.path / "control.path"
        recorded = self._read(record)
        if recorded is not None and Path(os.fsdecode(recorded).strip()).parent.is_dir():
            short = Path(os.fsdecode(recorded).strip())
            _check_runtime(short.parent)
            return short
        runtime = self._runtime
        if runtime is None:
            with warnings.catch_warnings(category=UserWarning, action="ignore"):
                # It warns where the session has no such folder, and gives one in /tmp that will do.
                runtime = Path(platformdirs.user_runtime_dir(APPLICATION, appauthor=False))
        with _reported(runtime):
            runtime.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        _check_runtime(runtime)
        digest = hashlib.blake2b(os.fsencode(self.path), digest_size=8).hexdigest()
        short = runtime / f"{digest}.sock"
        if not _fits_a_socket(short):
            raise HomeError(f"{short} is too long for a Unix socket: use a shorter --home")
        self._write(record, os.fsencode(short) + b"\n")
        return short

    def _read(self, path: Path) -> bytes | None:
        with _reported(path):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            except FileNotFoundError:
                return None
            with os.fdopen(descriptor, "rb") as opened:
                _judge(path, os.fstat(descriptor), stat.S_ISREG, "a file")
                content = opened.read(FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raise HomeError(f"{path} is too large to be ours: restore it or use another --home")
        return content

    def _write(self, path: Path, content: bytes) -> None:
        temporary = path.with_name(f".{path.name}.new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with _reported(path):
            temporary.unlink(missing_ok=True)
            descriptor = os.open(temporary, flags, _FILE_MODE)
            try:
                with os.fdopen(descriptor, "wb") as opened:
                    opened.write(content)
                    opened.flush()
                    os.fsync(descriptor)
                temporary.replace(path)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
            _sync_folder(path.parent)


def _fits_a_socket(path: Path) -> bool:
    return len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    written = os.pread(descriptor, 32, 0).strip()
    return f"process {int(written)}" if written.isdigit() else "another process"


def _check_private(path: Path, is_kind: Callable[[int], bool], kind: str) -> None:
    try:
        found = path.stat()
    except FileNotFoundError:
        raise HomeError(
            f"there is no {path}: run 'rhizome init' or 'rhizome join TICKET', "
            "or name the folder with --home"
        ) from None
    except OSError as error:
        raise _cannot_be_used(path, error) from None
    _judge(path, found, is_kind, kind)


def _check_runtime(runtime: Path) -> None:
    """A folder in a shared place: ours alone, and nobody else can put another in its stead."""
    _check_private(runtime, stat.S_ISDIR, "a folder")
    owner = runtime.parent.stat().st_uid
    if owner not in {0, os.geteuid()}:
        raise HomeError(f"{runtime.parent} belongs to user {owner}: set XDG_RUNTIME_DIR")


def _judge(path: Path, found: os.stat_result, is_kind: Callable[[int], bool], kind: str) -> None:
    if not is_kind(found.st_mode):
        raise HomeError(f"{path} is not {kind}: use another folder with --home")
    if found.st_uid != os.geteuid():
        raise HomeError(
            f"{path} belongs to user {found.st_uid}, and this is user {os.geteuid()}: "
            "run as its owner or use another --home"
        )
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise HomeError(f"{path} is open to others (mode {mode:04o}): run chmod go= '{path}'")


@contextlib.contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Turns the system's refusals into ours, in one line."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull(
                f"no space is left to write {path}: free some, or use another folder with --home"
            ) from None
        raise _cannot_be_used(path, error) from None


def _cannot_be_used(path: Path, error: OSError) -> HomeError:
    return HomeError(
        f"{path} cannot be used: {error.strerror}; mend that, or use another folder with --home"
    )
