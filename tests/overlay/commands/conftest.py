"""One running issuer for the commands' tests, and a root logger that is put back."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.overlay.commands.terminal import WORDS, PeerProcess, rhizome, running_peer


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def words(tmp_path: Path) -> str:
    """A file with a passphrase."""
    file = tmp_path / "passphrase"
    file.write_text(WORDS + "\nanother line\n")
    return str(file)


@pytest.fixture(scope="session")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PeerProcess]:
    """The first host of an overlay with the tenants ``office`` and ``research``."""
    home = tmp_path_factory.mktemp("issuer") / "home"
    rhizome("init", "--home", str(home), "--tenant", "research", "--tenant", "office").worked()
    with running_peer(home, "--log-level", "debug") as peer:
        yield peer


@pytest.fixture(scope="session")
def other_overlay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PeerProcess]:
    """The first host of another overlay."""
    home = tmp_path_factory.mktemp("other") / "home"
    rhizome("init", "--home", str(home)).worked()
    with running_peer(home) as peer:
        yield peer
