"""Commands beside a running peer: ask, status, explain, token, leave."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from tests.overlay.commands.terminal import PeerProcess, rhizome, running_peer

MARKER = "zanzibar-marker"
OFFICE = ("--tenant", "office")
CANDIDATE = {
    *("peer_id", "here", "matched_tokens", "counted_tokens", "queue_ms", "rtt_ms", "prefill_ms"),
    *("decode_ms", "total_ms", "score_ms", "excluded", "dtype", "variant", "estimated"),
}


def test_without_a_running_peer_each_command_is_one_line(home: Path) -> None:
    commands = (
        *(("status",), ("ask", "hi"), ("leave",), ("explain",), ("invite",), ("revoke", "x")),
        *(("token", "create"), ("token", "list"), ("token", "revoke", "x")),
    )
    for words in commands:
        line = rhizome(*words, "--home", str(home)).failed(1)
        assert line.startswith(f"there is no {home}: run 'rhizome init' or 'rhizome join TICKET'")
    assert not home.exists()
    rhizome("init", "--home", str(home)).worked()
    for words in commands:
        line = rhizome(*words, "--home", str(home)).failed(1)
        assert line == (f"no peer is running in {home}: start it with 'rhizome peer --home {home}'")


def test_ask_prints_the_answer_alone_and_what_it_cost_beside_it(issuer: PeerProcess) -> None:
    ran = issuer.run("ask", "hello", *OFFICE, "--max-tokens", "4").worked()
    assert len(ran.out.split()) >= 1
    assert "prompt tokens cached, served by" in ran.err
    assert ran.err.startswith("# ")
    piped = issuer.run("ask", "-", *OFFICE, "--max-tokens", "4", text="hello").worked()
    assert piped.out == ran.out


def test_ask_as_json(issuer: PeerProcess) -> None:
    words = ("ask", "hello " * 40, "--json", *OFFICE, "--seed", "3", "--temperature", "0")
    first = issuer.run(*words, "--max-tokens", "5").worked().json
    again = issuer.run(*words, "--max-tokens", "5").worked().json
    assert set(first) == {
        *("request_id", "text", "finish_reason", "prompt_tokens", "cached_tokens"),
        *("completion_tokens", "served_by", "hops", "resumes"),
    }
    assert first["text"] == again["text"]
    assert first["request_id"] != again["request_id"]
    assert again["cached_tokens"] >= 32
    assert (again["finish_reason"], again["completion_tokens"]) == ("length", 5)


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (("",), 1, "the prompt is empty"),
        (("x " * 9000,), 1, "prompt and answer exceed the context of 8192 tokens"),
        (("hi", "--model", "gpt"), 1, "that model is not served here; served are: toy"),
        (("hi", "--tenant", "nothing"), 1, "this host serves no tenant 'nothing'; it serves:"),
        (("hi", "--timeout", "0s"), 2, "--timeout: must be more than 0"),
        (("hi", "--timeout", "5"), 2, "--timeout: '5' needs a unit"),
        (("hi", "--timeout", "50ms", "--max-tokens", "4000"), 1, "no whole answer within 0.05 s"),
        (("x" * (2 << 20),), 1, "a message of"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    issuer: PeerProcess, words: tuple[str, ...], code: int, line: str
) -> None:
    begun = "50ms" in words
    assert issuer.run("ask", *OFFICE, *words).failed(code, begun=begun).startswith(line)
    assert issuer.status()["open_requests"] == 0


def test_a_question_of_bytes_that_are_no_text_is_refused(issuer: PeerProcess) -> None:
    line = issuer.run("ask", "-", *OFFICE, text=b"h\xffi").failed(2)
    assert line == "standard input is not UTF-8 text"


def test_a_timeout_longer_than_a_peer_takes_is_cut_to_its_longest(issuer: PeerProcess) -> None:
    issuer.run("ask", "hi", *OFFICE, "--timeout", "90d", "--max-tokens", "1").worked()


def test_status_as_json_and_for_people(issuer: PeerProcess) -> None:
    status = issuer.status()
    assert set(status) == {
        *("type", "peer_id", "overlay_id", "generation", "addresses", "http", "tenants", "engine"),
        *("device", "models", "policy", "draining", "slots", "running", "queued", "used_blocks"),
        *("total_blocks", "open_requests", "sent_bytes", "peers", "dtypes", "posture", "variants"),
        *("confirmed", "waits_for", "revocations", "revoked"),
    }
    assert status["confirmed"], "an overlay of one has nobody to ask"
    assert not status["revoked"]
    assert status["tenants"] == ["office", "research"]
    assert status["models"] == ["toy"]
    assert status["dtypes"] == {"toy": "none"}
    assert not status["draining"]
    shown = issuer.run("status").worked().out
    for words in (
        status["peer_id"],
        "office, research",
        status["http"][0],
        "of 4 slots",
        "toy (none, weights ",
    ):
        assert words in shown
    assert "no other peer is up" in shown
    assert "(draining)" not in shown


def test_the_posture_says_what_is_open_to_whom(issuer: PeerProcess) -> None:
    status = issuer.status()
    socket = f"{issuer.home}/control.sock to this host's owner"
    for words in (
        *(status["peer_id"], "interfaces  lo", "toy", "tenants: office, research", socket),
        "discovery   off: others are found by their own",
    ):
        assert words in issuer.posture
    assert f"{', '.join(status['addresses'])} to peers of this overlay" in issuer.posture
    assert "to holders of a ticket" in issuer.posture
    assert f"{status['http'][0]} to clients with a token" in issuer.posture
    assert all(address.startswith(("127.0.0.1:", "[::1]:")) for address in status["addresses"])


def test_explain_shows_every_term_and_what_came_true(issuer: PeerProcess) -> None:
    ask = ("ask", f"{MARKER} " * 30, "--json", *OFFICE, "--max-tokens", "3", "--temperature", "0")
    asked = issuer.run(*ask).worked().json
    reply = issuer.run("explain", asked["request_id"], "--json").worked().json
    assert reply["request_id"] == asked["request_id"]
    assert [set(candidate) for candidate in reply["routes"][0]["candidates"]] == [CANDIDATE]
    (candidate,) = reply["routes"][0]["candidates"]
    assert candidate["peer_id"] == reply["routes"][0]["chosen"] == asked["served_by"]
    assert candidate["total_ms"] > 0
    outcome = reply["outcome"]
    assert outcome["state"] == asked["finish_reason"]
    for name in ("prompt_tokens", "cached_tokens", "completion_tokens"):
        assert outcome[name] == asked[name]
    assert (outcome["attempts"], outcome["resumes"]) == (1, 0)
    assert 0 < outcome["ttft_ms"] <= outcome["total_ms"]
    shown = issuer.run("explain").worked().out
    assert asked["request_id"] in shown
    assert f"{asked['served_by'][-8:]} (here)" in shown, (
        "names are not cut where there is no terminal"
    )
    for column in ("matched", "queue", "round trip", "prefill", "decode", "total"):
        assert column in shown
    assert f"came true: {outcome['state']}, " in shown
    assert MARKER not in json.dumps(reply) + shown


def test_explain_takes_the_id_of_an_answers_body_and_a_tenant(issuer: PeerProcess) -> None:
    asked = issuer.run("ask", "hi", "--json", *OFFICE, "--max-tokens", "1").worked().json
    for words in (("chatcmpl-" + asked["request_id"],), OFFICE, (asked["request_id"], *OFFICE)):
        shown = issuer.run("explain", *words, "--json").worked().json
        assert shown["request_id"] == asked["request_id"]
    other = ("--tenant", "research")
    issuer.run("explain", asked["request_id"], *other).failed(1)
    assert "it serves: office, research" in issuer.run("explain", "--tenant", "x").failed(2)
    assert issuer.run("status", *other, "--json").worked().json["tenants"] == ["research"]
    assert "tenants: research" in issuer.run("status", *other).worked().out


def test_explain_of_a_request_that_was_left_has_no_numbers(issuer: PeerProcess) -> None:
    words = ("hi", *OFFICE, "--timeout", "30ms", "--max-tokens", "4000")
    issuer.run("ask", *words).failed(1, begun=True)
    shown = issuer.run("explain").worked().out
    assert "came true: " in shown
    assert "None" not in shown


def test_explain_of_an_unknown_request_says_where_to_look(issuer: PeerProcess) -> None:
    line = issuer.run("explain", "0" * 32).failed(1)
    assert line.startswith("that request is not among the last 1,000 that this peer took in")
    assert "too large" in issuer.run("explain", "x" * 300).failed(2)


def test_a_planted_marker_is_in_no_log_even_at_debug(issuer: PeerProcess) -> None:
    issuer.run("ask", f"{MARKER} " * 20, *OFFICE, "--max-tokens", "2").worked()
    issuer.run("ask", MARKER, *OFFICE, "--model", "nothing").failed(1)
    issuer.run("ask", f"{MARKER} " * 9000, *OFFICE).failed(1)
    assert MARKER not in issuer.log
    for path in issuer.home.rglob("*"):
        if path.is_file():
            assert MARKER.encode() not in path.read_bytes(), path


def test_token_create_prints_a_base_url_and_a_key(issuer: PeerProcess) -> None:
    words = ("token create", *OFFICE, "--name", "open-webui", "--expires", "2d")
    ran = issuer.run(*words).worked()
    assert f"base URL  {issuer.status()['http'][0]}/v1\n" in ran.out
    assert "API key   eyJ" in ran.out
    assert "tenant office, good until" in ran.err
    reply = issuer.run(*words, "--json").worked().json
    assert set(reply) == {
        *("api_key", "base_url", "expires_unix_s", "name", "scopes", "tenant", "token_id", "type"),
    }
    assert reply["scopes"] == ["infer"]
    payload = reply["api_key"].split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert claims["scopes"] == ["infer"]
    more = issuer.run(*words, "--scope", "status", "--scope", "admin", "--json").worked().json
    assert more["scopes"] == ["admin", "status"]
    assert "'root'" in issuer.run(*words, "--scope", "root").failed(2)
    assert claims["sub"] == reply["name"] == "open-webui"
    assert claims["exp"] == reply["expires_unix_s"]
    assert claims["jti"] == reply["token_id"]
    assert claims["exp"] - claims["iat"] == 2 * 86_400
    assert reply["api_key"] not in issuer.log


def test_token_create_and_its_bounds(issuer: PeerProcess) -> None:
    line = issuer.run("token create").failed(2)
    assert line == "name a tenant with --tenant; there is office, research"
    for words, line in (
        (("--expires", "0s"), "--expires: must be more than 0"),
        (("--expires", "9000d"), "at most 10 years"),
        (("--name", ""), "empty or too long"),
        (("--name", "x" * 65), "empty or too long"),
        (("--name", "x" * 300), "too large"),
    ):
        assert line in issuer.run("token create", *OFFICE, *words).failed(2)


def test_leave_ends_the_peer_and_its_files_stay_good(home: Path) -> None:
    rhizome("init", "--home", str(home)).worked()
    for _ in range(2):
        with running_peer(home) as peer:
            ran = peer.run("leave").worked()
            assert ran.out == "leaving: running requests are finished first\n"
            assert peer.ended() == 0
            assert not (home / "control.sock").exists()
            assert "no peer is running in" in peer.run("status").failed(1)
            assert "Traceback" not in peer.log
