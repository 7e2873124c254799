"""Where commands find a root's key."""

from __future__ import annotations

from pathlib import Path

from overlay.errors import ConfigError, HomeError
from overlay.home import Home, HomeFile
from overlay.rotation import roots_in
from security.root_key import FILE_BYTES_MAX


def signing_file(folder: Home | None, path: str | None) -> bytes:
    """The file of the root that signs issuers now: the one that is named, else the newest's.

    Raises:
        ConfigError, HomeError, SecurityError: As ``root_file``, or when the folder is damaged.
    """
    rotating = path is None and folder is not None and roots_in(folder).overlap
    return root_file(folder, path, HomeFile.NEXT_ROOT_KEY if rotating else HomeFile.ROOT_KEY)


def root_file(
    folder: Home | None,
    path: str | None,
    file: HomeFile = HomeFile.ROOT_KEY,
    flag: str = "--root-key",
) -> bytes:
    """A root key's file: the one that is named, else that of the folder, which has to be there.

    Args:
        folder: Where it is looked for; None where it has to be named.
        path: The one that is named.
        file: Which one it is in the folder.
        flag: By which it is named.

    Raises:
        ConfigError: When the named one cannot be read.
        HomeError: When the folder holds none.
    """
    if path is None:
        assert folder is not None
        found = folder.read(file)
        if found is None:
            raise HomeError(f"{folder.path} holds no {file.value}: name it with {flag} FILE")
        return found
    try:
        with Path(path).open("rb") as opened:
            return opened.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{flag}: {path} cannot be read: {error.strerror}") from None
