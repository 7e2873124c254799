"""DNS rebinding and pages of other origins: who may call the API by which name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import ConfigError
from overlay.http.app import make_app
from overlay.http.guard import Guard
from overlay.http.names import KnownNames, dns_name, host_of, origin
from tests.overlay.http.fronts import MadeUpFront
from tests.overlay.http.world import Answer, connected, stamp

KNOWN = KnownNames(
    hosts=frozenset({"llm.example", "*.lan.example"}), origins=frozenset({"https://app.example"})
)


async def asked(*headers: str, line: str = "GET /v1/models HTTP/1.1") -> Answer:
    """The answer to one request of an authorised client with these headers."""
    guard = Guard(make_app(MadeUpFront()), lambda: KNOWN, stamp())
    head = [line, "Authorization: Bearer good", *headers, "", ""]
    async with connected(guard) as client:
        return await client.ask("\r\n".join(head).encode("latin-1"), line.partition(" ")[0])


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:7403", "localhost.:1", "127.0.0.1:7403", "10.1.2.3", "[::1]:7403",
     "[FE80::1]", "llm.example", "LLM.Example.:443", "a.lan.example:80", "llm.example:"],
)  # fmt: skip
async def test_names_that_are_ours_and_all_addresses_are_answered(host: str) -> None:
    assert (await asked(f"Host: {host}")).status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:7403", "localhost.evil.example", "127.0.0.1.evil.example",
     "xllm.example", "llm.example.evil", "lan.example", "a.b.lan.example", "localhostx", "h"],
)  # fmt: skip
async def test_a_name_that_was_bent_to_this_host_is_misdirected(host: str) -> None:
    answer = await asked(f"Host: {host}")
    assert (answer.status, answer.error["code"]) == (421, "misdirected_request")
    assert "--http-host" in answer.error["message"]
    assert len(answer.headers["x-request-id"]) == 32


@pytest.mark.parametrize(
    "host",
    ["", "a b", "[", "[::1", "::1", "[1.2.3.4.5]", "127.0.0.1:x", "127.1", "0x7f.1:80:80", "a/b",
     "user@localhost", "localhost#", "localhost:99999999", "\xe9", "..", "-a", "localhost,evil",
     "*.lan.example"],
)  # fmt: skip
async def test_a_malformed_host_is_a_bad_request(host: str) -> None:
    answer = await asked(f"Host: {host}")
    assert (answer.status, answer.error["code"]) == (400, "malformed_request")


@pytest.mark.parametrize("hosts", [[], ["Host: localhost", "Host: localhost"]])
async def test_one_host_header_there_must_be(hosts: list[str]) -> None:
    answer = await asked(*hosts)
    assert (answer.status, answer.error["code"]) == (400, "malformed_request")


async def test_http_1_0_needs_none() -> None:
    assert (await asked(line="GET /v1/models HTTP/1.0")).status == 200


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        ("http://localhost:7403/v1/models", "evil.example", 200),
        ("http://evil.example/v1/models", "localhost", 421),
        ("HTTPS://EVIL.example/v1/models", "localhost", 421),
        ("http://user@localhost/v1/models", "localhost", 400),
        ("http:///v1/models", "localhost", 400),
        ("http://localhost#/v1/models", "localhost", 404),
    ],
)
async def test_the_host_in_the_target_counts(target: str, host: str, status: int) -> None:
    answer = await asked(f"Host: {host}", line=f"GET {target} HTTP/1.1")
    assert answer.status == status


@pytest.mark.parametrize(
    ("said", "host"),
    [("http://localhost:7403", "localhost:7403"), ("https://LLM.example", "llm.example"),
     ("http://127.0.0.1:1", "127.0.0.1:1"), ("http://[::1]:7403", "[::1]:7403")],
)  # fmt: skip
async def test_its_own_pages_may_call_without_further_ado(said: str, host: str) -> None:
    answer = await asked(f"Host: {host}", f"Origin: {said}")
    assert answer.status == 200
    assert not any(name.startswith("access-control") for name in answer.headers)


@pytest.mark.parametrize(
    "said",
    ["http://evil.example", "null", "http://localhost:3000", "https://app.example.evil",
     "http://app.example", "https://app.example:444", "", "localhost:7403", "file://", "*",
     "app://localhost:7403",
     "https://app.example https://evil.example"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "OPTIONS", "HEAD"])
async def test_pages_of_other_origins_may_not(said: str, method: str) -> None:
    answer = await asked(
        "Host: localhost:7403",
        f"Origin: {said}",
        "Access-Control-Request-Method: POST",
        line=f"{method} /v1/models HTTP/1.1",
    )
    assert answer.status == 403
    assert not any(name.startswith("access-control") for name in answer.headers)
    if method == "GET":
        assert answer.error["code"] == "origin_not_allowed"


async def test_a_named_origin_may_and_its_browser_is_told_so() -> None:
    answer = await asked("Host: localhost", "Origin: https://app.example")
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert "x-request-id" in answer.headers["access-control-expose-headers"]
    assert "origin" in answer.headers["vary"].lower()
    assert "access-control-allow-credentials" not in answer.headers
    preflight = await asked(
        "Host: localhost",
        "Origin: https://app.example",
        "Access-Control-Request-Method: POST",
        "Access-Control-Request-Headers: authorization,content-type,x-stainless-os",
        line="OPTIONS /v1/chat/completions HTTP/1.1",
    )
    assert preflight.status == 200
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert "x-stainless-os" in preflight.headers["access-control-allow-headers"]


async def test_new_names_count_from_the_next_request_on() -> None:
    known = KnownNames()
    guard = Guard(make_app(MadeUpFront()), lambda: known, stamp())
    request = b"GET /health HTTP/1.1\r\nHost: llm.example\r\n\r\n"
    async with connected(guard) as client:
        assert (await client.ask(request)).status == 421
        known = KNOWN
        assert (await client.ask(request)).status == 200


@given(st.text(max_size=80))
def test_any_host_is_read_or_refused(text: str) -> None:
    found = host_of(text)
    if found is not None:
        assert host_of(found) == found
        assert KNOWN.knows(found) in {True, False}


@pytest.mark.parametrize("written", ["a b", "", "10.0.0.1", "::1", "*.a", "a" * 254, "http://a"])
def test_what_is_no_name_is_refused_in_settings(written: str) -> None:
    with pytest.raises(ConfigError, match="not a host's name"):
        dns_name(written)


@pytest.mark.parametrize("written", ["*", "app.example", "ftp://a", "https://a/b", "null", ""])
def test_what_is_no_origin_is_refused_in_settings(written: str) -> None:
    with pytest.raises(ConfigError, match="not an origin"):
        origin(written)


def test_settings_are_compared_as_browsers_spell_them() -> None:
    assert dns_name("LLM.Example.") == "llm.example"
    assert origin("HTTPS://App.Example:8443/") == "https://app.example:8443"
