"""README's two-host commands, word for word, on three hosts of a LAN made of namespaces."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.lan.lan import Host, can_make_namespaces, lan

pytestmark = [
    pytest.mark.processes,
    pytest.mark.model,
    pytest.mark.skipif(not can_make_namespaces(), reason="needs root and network namespaces"),
]

README = Path(__file__).resolve().parent.parent.parent / "README.md"
DOCUMENT = "Read this and answer. " + "The river Lanner rises on Mount Ashby and flows north. " * 24


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
        for host in (dual, quiet):
            host.wait_for("rhizome status --json", '"peer_id"')
        for host, others in (
            (first, (dual, quiet)),
            (dual, (first, quiet)),
            (quiet, (first, dual)),
        ):
            for other in others:
                host.wait_for("rhizome status --json", peer_id(other))
        # Nobody has it cached: on a busy machine another host than the asked one may be quicker.
        home = ask(first, DOCUMENT)["served_by"]
        for host in (dual, quiet, first):
            if peer_id(host) == home:
                continue
            wait_for_news(host, home)
            hit = ask(host, DOCUMENT)
            assert (hit["served_by"], hit["hops"]) == (home, 1), why(host)
            assert hit["cached_tokens"] > 0


def ask(host: Host, text: str) -> dict[str, Any]:
    return dict(
        json.loads(host.command(f'rhizome ask --json --max-tokens 8 --temperature 0 "{text}"'))
    )


def wait_for_news(host: Host, other: str) -> None:
    """Waits until the host knows of prefixes that the other one holds."""
    for _ in range(60):
        peers = json.loads(host.command("rhizome status --json"))["peers"]
        if any(peer["peer_id"] == other and peer["prefixes"] > 0 for peer in peers):
            return
        time.sleep(0.3)
    raise AssertionError(f"{host.name} never heard what the other caches:\n{host.log()}")


def why(host: Host) -> str:
    return host.command("rhizome explain")


def peer_id(host: Host) -> str:
    return str(json.loads(host.command("rhizome status --json"))["peer_id"])
