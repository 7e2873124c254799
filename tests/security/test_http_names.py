from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from security.errors import LimitExceeded, MalformedName
from security.http_names import HTTP_NAMES_MAX, granted_name, granted_names, http_name, not_granted


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("llm.example", "llm.example"),
        ("LLM.Example.", "llm.example"),
        ("gpu1", "gpu1"),
        ("*.llm.example", "*.llm.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("10.0.0.5", "10.0.0.5"),
        ("FD00:0::5", "fd00::5"),
        ("1.example", "1.example"),
    ],
)
def test_a_name_has_one_spelling(text: str, name: str) -> None:
    assert http_name(text) == name
    assert http_name(name) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "a..b",
        "-a.example",
        "a-.example",
        "a_b.example",
        "a b",
        "a\nb",
        "llm.example\n",
        "bücher.example",
        "llm.example:7403",
        "https://llm.example",
        "*",
        "*.example",
        "*.*.example",
        "a.*.example",
        "a*.llm.example",
        "10.0.0.05",
        "10.0.0.256",
        "10.0.0",
        "[fd00::5]",
        "fe80::1%eth0",
        "::ffff:10.0.0.5",
        "x.peer.rhizome.internal",
        "Rhizome.Internal.",
        "a." * 127 + "ab",
        "a" * 64,
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(MalformedName):
        http_name(text)


@pytest.mark.parametrize(
    "text",
    ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.9.9.9", "::1", "224.0.0.1", "::"],
)
def test_a_name_that_means_every_host_is_granted_to_none(text: str) -> None:
    http_name(text)
    with pytest.raises(MalformedName):
        granted_name(text)


def test_granted_names_are_sorted_single_and_few() -> None:
    assert granted_names(["b", "A", "a.", "10.0.0.1"]) == ("10.0.0.1", "a", "b")
    many = [f"h{number}" for number in range(HTTP_NAMES_MAX)]
    assert len(granted_names(many)) == HTTP_NAMES_MAX
    with pytest.raises(LimitExceeded):
        granted_names([*many, "one-more"])


def test_a_wildcard_is_granted_literally_and_covers_nothing() -> None:
    assert not_granted(["*.llm.example"], ["*.llm.example"]) == []
    assert not_granted(["a.llm.example"], ["*.llm.example"]) == ["a.llm.example"]
    assert not_granted(["*.llm.example"], ["a.llm.example"]) == ["*.llm.example"]
    assert not_granted(["llm.example"], ["llm.example.org", "x.llm.example"]) == ["llm.example"]


@given(st.text(max_size=300))
def test_any_text_is_a_name_in_one_spelling_or_refused(text: str) -> None:
    try:
        name = http_name(text)
    except MalformedName:
        return
    assert http_name(name) == name
    assert name.isascii()
    assert name == name.lower()
