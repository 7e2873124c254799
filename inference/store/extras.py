"""What is installed only where a model is computed here, and the command that installs it."""

from __future__ import annotations

import importlib.util

from inference.errors import PartMissing

LOCAL_COMMAND = "pip install 'rhizome[local]'"


def require_local(what: str, *packages: str) -> None:
    """Checks, without importing them, that libraries are there.

    Args:
        what: What needs them, as the beginning of a sentence.
        packages: Their import names.

    Raises:
        PartMissing: One is not; the message names it and the command that installs it.
    """
    for package in packages:
        if not _is_installed(package):
            raise PartMissing(f"{what} needs {package}: {LOCAL_COMMAND}")


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False
