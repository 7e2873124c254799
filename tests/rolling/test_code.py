"""Where the code that is upgraded from comes from, and what is said where it is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rolling.hosts import code_of


@pytest.mark.parametrize("revision", ["0" * 40, "no-such-branch", "--remote=elsewhere"])
def test_a_revision_that_is_not_here_is_named_with_what_to_do(
    revision: str, tmp_path: Path
) -> None:
    with pytest.raises(LookupError, match="git fetch --unshallow"):
        code_of(revision, tmp_path / "old")
    assert not (tmp_path / "old").exists()
