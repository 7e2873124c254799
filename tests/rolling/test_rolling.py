"""Old and new peers in one overlay, under load: none of the requests is lost, and all agree.

``make test-upgrade``; ``OLD`` names the revision that is upgraded from.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import pytest
import trio

from tests.rolling.hosts import (
    AGREES_S,
    OLD_DEFAULT,
    POLL_S,
    PRESENT,
    TOY,
    Code,
    Host,
    code_of,
    found,
    until_all,
)
from tests.rolling.load import Load

pytestmark = [pytest.mark.rolling, pytest.mark.processes]

NAMES = ("anna", "bert", "cleo")
CLIENTS = 4
SOME = 40
"""Answers between one step and the next."""


@pytest.fixture
def old(tmp_path: Path) -> Code:
    """The code that is upgraded from."""
    try:
        return code_of(os.environ.get("OLD") or OLD_DEFAULT, tmp_path / "old")
    except LookupError as why:
        pytest.fail(str(why), pytrace=False)


async def revoked_everywhere(hosts: list[Host], ids: set[str]) -> None:
    await until_all(
        hosts,
        ("revoke", "--list"),
        lambda said: {each["id"] for each in said["revocations"]} == ids,
    )


async def tenants_agree(hosts: list[Host]) -> None:
    """Each host has every tenant as the issuer's has it."""

    def seen(said: Any) -> list[tuple[str, int, int, list[str]]]:
        tenants = [each for each in said["tenants"] if each["member"]]
        return [(each["name"], each["epoch"], each["version"], each["members"]) for each in tenants]

    wanted = seen(await hosts[0].tells("tenant", "list"))
    assert {name for name, *_ in wanted} == {"default", "lab"}
    await until_all(hosts, ("tenant", "list"), lambda said: seen(said) == wanted)


async def streams_agree(hosts: list[Host]) -> None:
    """Of each host all others have read equally many prefixes, and some."""

    def agree(of: dict[str, int]) -> bool:
        return len(of) == len(hosts) - 1 and len(set(of.values())) == 1 and min(of.values()) > 0

    names = {host.peer_id: host.name for host in hosts}
    read: dict[str, dict[str, int]] = {}
    with trio.move_on_after(AGREES_S) as scope:
        while not read or not all(map(agree, read.values())):
            await trio.sleep(POLL_S)
            read = {host.name: {} for host in hosts}
            for host in hosts:
                for peer in (await host.tells("status"))["peers"]:
                    read[names[peer["peer_id"]]][host.name] = peer["prefixes"]
    assert not scope.cancelled_caught, (
        f"prefixes of each host, as the others have read them: {read}"
    )


async def new_token(issuer: Host, tenant: str = "default") -> Any:
    return await issuer.tells("token", "create", "--tenant", tenant)


async def test_every_host_is_upgraded_and_two_go_back_under_load(old: Code, tmp_path: Path) -> None:
    hosts = await found(tmp_path, NAMES, old)
    issuer, bert, cleo = hosts
    try:
        for host in hosts:
            await host.start(old, *TOY)
        token = await new_token(issuer)
        load = Load(hosts, token["api_key"], issuer.home / "root.der")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load.run, CLIENTS)
            await load.first()
            spares = [await new_token(issuer) for _ in range(2)]

            await issuer.replace(PRESENT)
            await load.more(SOME)
            await issuer.command("token", "revoke", spares[0]["token_id"])
            await issuer.command("tenant", "create", "lab")
            for host in (bert, cleo):
                await issuer.command("tenant", "add", "lab", host.peer_id)
            await revoked_everywhere(hosts, {spares[0]["token_id"]})
            await tenants_agree(hosts)

            await bert.replace(PRESENT)
            await load.more(SOME)
            await issuer.command("tenant", "rotate", "default")
            await tenants_agree(hosts)

            await cleo.replace(PRESENT)
            await load.more(SOME)
            await cleo.replace(old)
            await load.more(SOME)
            await issuer.command("tenant", "rotate", "lab", "--hard")
            await issuer.replace(old)
            await load.more(SOME)
            await issuer.command("token", "revoke", spares[1]["token_id"])
            await issuer.command("tenant", "rotate", "default")
            nursery.cancel_scope.cancel()
        await load.once_more()
        await revoked_everywhere(hosts, {each["token_id"] for each in spares})
        await tenants_agree(hosts)
        await streams_agree(hosts)
    finally:
        for host in hosts:
            await host.stop()
    report(load, hosts)
    assert load.lost == []
    assert load.wrong == []
    assert set(load.turned_away) <= {"draining", "going away", "no connection", "down"}
    assert all(code == 0 for host in hosts for code in host.exits)
    crossed = {
        (answer.by_code, answer.served_by != host_id(hosts, answer.asked))
        for answer in load.answers
    }
    assert {(old.name, True), (PRESENT.name, True)} <= crossed, "peers of both have forwarded"


def host_id(hosts: list[Host], name: str) -> str:
    return next(host.peer_id for host in hosts if host.name == name)


def report(load: Load, hosts: list[Host]) -> None:
    forwarded = [a for a in load.answers if a.served_by != host_id(hosts, a.asked)]
    hits = [a for a in forwarded if a.cached_tokens]
    click.echo(
        f"\n{len(load.answers)} requests answered whole, {len(forwarded)} by another peer than was "
        f"asked ({len(hits)} of them from its cache); turned away and asked elsewhere: "
        f"{dict(load.turned_away)}; lost: {len(load.lost)}; wrong: {len(load.wrong)}"
    )
