"""An owner's mistake is told at start, in one sentence, and no secret is shown."""

from __future__ import annotations

import pytest

from inference.remote.kinds import KINDS, REFUSED, STRIPPED
from inference.remote.settings import RemoteKind, RemoteSettings, checked_url


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
        ("http://localhost:8000/v1", "http://localhost:8000"),
        ("http://localhost:8000/v1/", "http://localhost:8000"),
        ("https://llm.example.org/base/v1", "https://llm.example.org/base"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://192.168.1.5:11434", "http://192.168.1.5:11434"),
        ("https://8.8.8.8", "https://8.8.8.8"),
    ],
)
def test_a_url_is_brought_to_its_base(given: str, used: str) -> None:
    assert checked_url(given) == used


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("127.0.0.1:8000", "http or https"),
        ("ftp://host", "http or https"),
        ("http://", "http or https"),
        ("http://a b", "http or https"),
        ("http://host:port", "cannot be read"),
        ("http://[::1", "cannot be read"),
        ("http://me:secret@host", "password"),
        ("http://host/?key=secret", "after its path"),
        ("http://host/#x", "after its path"),
        ("http://8.8.8.8:8000", "https"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_showing_it(given: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        RemoteSettings(kind=RemoteKind.VLLM, url=given)
    assert "secret" not in str(caught.value)


def test_the_key_is_not_shown() -> None:
    settings = RemoteSettings(kind=RemoteKind.VLLM, url="http://h", api_key="hunter2")
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize("key", ["two\nlines", "schlüssel", " x"])
def test_a_key_that_is_no_header_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="API key") as caught:
        RemoteSettings(kind=RemoteKind.VLLM, url="http://h", api_key=key)
    assert key not in str(caught.value)


@pytest.mark.parametrize("field", ["slots", "context_tokens", "queue_max"])
def test_numbers_are_not_negative(field: str) -> None:
    with pytest.raises(ValueError, match="negative"):
        RemoteSettings(kind=RemoteKind.VLLM, url="http://h", **{field: -1})  # type: ignore[arg-type]


def test_each_kind_is_described_and_no_field_is_in_two_lists() -> None:
    assert set(KINDS) == set(RemoteKind)
    assert not STRIPPED & REFUSED
    assert all(kind.kind is name for name, kind in KINDS.items())
    salted = {name for name, kind in KINDS.items() if kind.salt_field}
    assert salted == {RemoteKind.VLLM, RemoteKind.SGLANG}
