"""Which code ran: a failure can only be replayed exactly by the same."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("security", "inference", "overlay", "chaos")
GIT_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """``commit`` is git's, or the release where there is no repository.

    ``sources`` is a digest of every module of the packages, so uncommitted changes differ too.
    """

    commit: str
    sources: str
    python: str
    trio: str

    def differs(self, other: Revision) -> str | None:
        """What differs, in words; None where a replay must give the same trace."""
        if self.sources != other.sources:
            return f"code differs: {self.commit[:12]} then, {other.commit[:12]} now"
        for name in ("python", "trio"):
            then, now = getattr(self, name), getattr(other, name)
            if then != now:
                return f"{name} differs: {then} then, {now} now"
        return None


@cache
def revision() -> Revision:
    """That of this process."""
    return Revision(
        commit=_commit() or f"release {version('rhizome')}",
        sources=_sources(),
        python=platform.python_version(),
        trio=version("trio"),
    )


def _commit() -> str | None:
    if not (ROOT / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],  # noqa: S607 - the developer's own git
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _sources() -> str:
    state = hashlib.blake2b(digest_size=8)
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            state.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return state.hexdigest()
