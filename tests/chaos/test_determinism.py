"""One schedule gives one run, in every process, whatever Python's hash seed is."""

from __future__ import annotations

import pytest

from tests.chaos.fresh import printed


@pytest.mark.parametrize("mode", ["core", "node"])
def test_two_fresh_processes_with_other_hash_seeds_do_the_same(mode: str) -> None:
    first, second = printed(mode, "1"), printed(mode, "4711")
    assert first == second
    one, other = (line.split() for line in first.splitlines())
    assert one[0] != other[0], "another seed is another run"
    assert int(one[2]) > 100
