"""README's two-host commands, word for word, on three hosts of a LAN made of namespaces."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.lan.lan import Host, can_make_namespaces, lan

pytestmark = [
    pytest.mark.processes,
    pytest.mark.model,
    pytest.mark.skipif(not can_make_namespaces(), reason="needs root and network namespaces"),
]

README = Path(__file__).resolve().parent.parent.parent / "README.md"
QUESTION = "Read this and answer. " + "The river Lanner rises on Mount Ashby and flows north. " * 12


def readme_commands() -> list[str]:
    """The commands of README's section on hosts, in order."""
    section = README.read_text().split("## Run it on your hosts")[1].split("\n## ")[0]
    return [line.removeprefix("$ ") for line in section.splitlines() if line.startswith("$ ")]


def configure(host: Host) -> None:
    """One thread per peer: the three share this machine."""
    with (host.home / "rhizome.toml").open("a") as file:
        file.write('\nthreads = 1\ndtype = "float32"\nforward_budget = "1s"\n')


def test_two_commands_bring_a_second_host_in_and_it_profits_from_the_firsts_cache(
    tmp_path: Path,
) -> None:
    commands = readme_commands()
    assert commands[:5] == [
        "rhizome init",
        "rhizome peer",
        "rhizome invite",
        "rhizome join TICKET",
        "rhizome peer",
    ]
    with lan(tmp_path) as hosts:
        first, dual, quiet = hosts["first"], hosts["dual"], hosts["quiet"]
        first.command(commands[0])
        configure(first)
        first.start(commands[1])
        first.wait_for("rhizome status", "no other peer is up")
        for host in (dual, quiet):
            ticket = first.command(commands[2]).strip()
            assert re.fullmatch(r"rhz1[a-z2-7]+", ticket)
            host.command(commands[3].replace("TICKET", ticket))
            configure(host)
        dual.start(commands[4])
        quiet.start(f"{commands[4]} --bootstrap {first.address}")
        for host, others in (
            (first, (dual, quiet)),
            (dual, (first, quiet)),
            (quiet, (first, dual)),
        ):
            for other in others:
                host.wait_for("rhizome status --json", peer_id(other))
        answer = json.loads(ask(first))
        assert answer["served_by"] == peer_id(first)
        first_cached = dual.wait_for(explain_after_ask(), '"here": false')
        outcome = json.loads(first_cached)["outcome"]
        assert outcome["state"] in {"stop", "length"}
        hit = wait_for_hit(quiet, peer_id(first))
        assert hit["cached_tokens"] > 0


def ask(host: Host) -> str:
    return host.command(f'rhizome ask --json --max-tokens 8 --temperature 0 "{QUESTION}"')


def explain_after_ask() -> str:
    return f'rhizome ask --max-tokens 4 "{QUESTION}" >/dev/null && rhizome explain --json'


def wait_for_hit(host: Host, served_by: str) -> dict[str, object]:
    """Asks until the other host's cache is known here (a gossip period or two)."""
    seen = []
    for _ in range(10):
        answer = json.loads(ask(host))
        seen.append((answer["served_by"][-6:], answer["cached_tokens"]))
        if answer["served_by"] != peer_id(host) and answer["cached_tokens"] > 0:
            return dict(answer)
    raise AssertionError(f"never served from {served_by[-6:]}'s cache: {seen}")


def peer_id(host: Host) -> str:
    return str(json.loads(host.command("rhizome status --json"))["peer_id"])
