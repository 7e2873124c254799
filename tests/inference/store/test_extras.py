"""Libraries that are not installed are named with the command, and none is imported to know it."""

from __future__ import annotations

import sys

import pytest

from inference.errors import PartMissing
from inference.store.extras import LOCAL_COMMAND, require_local


def test_what_is_installed_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "this", raising=False)
    require_local("a poem", "this")
    assert "this" not in sys.modules


@pytest.mark.parametrize("hidden", ["no_such_package", "json"])
def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    """Never installed, and hidden as these tests hide torch."""
    if hidden in sys.modules:
        monkeypatch.setitem(sys.modules, hidden, None)
    with pytest.raises(PartMissing) as caught:
        require_local("it", "sys", hidden)
    assert str(caught.value) == f"it needs {hidden}: {LOCAL_COMMAND}"
