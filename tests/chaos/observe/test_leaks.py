"""Marks of tenants are found wherever a host that is no member takes them in or keeps them."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from chaos.observe.leaks import LogTap, Marks, StorageTap, _ChannelTap
from chaos.scenario.prompts import canary
from security.tenant import TenantId

TENANT = TenantId("0123456789abcdef0123456789abcdef")


class Channel:
    def __init__(self, *chunks: bytes) -> None:
        self._chunks = list(chunks)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        raise NotImplementedError

    async def receive_some(self) -> bytes:
        return self._chunks.pop(0)

    async def aclose(self) -> None:
        self._chunks.clear()


class Table:
    def __init__(self) -> None:
        self.rows: dict[bytes, bytes | None] = {}

    def read(self, table: str) -> Mapping[bytes, bytes]:
        raise NotImplementedError(table)

    def write(
        self, table: str, rows: Mapping[bytes, bytes | None], *, durable: bool = False
    ) -> None:
        self.rows.update(rows)


def look(data: bytes, name: str = "alpha") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    Marks({TENANT: name}).look(data, "here", lambda *seen: found.append(seen))
    return found


def test_canary_and_id_in_both_spellings_and_a_long_name_are_marks() -> None:
    assert look(b"x" + canary("alpha").encode() + b"y") == [("alpha", "prompt in here")]
    assert look(b"x" + TENANT.encode()) == [("alpha", "tenant id in here")]
    assert look(bytes.fromhex(TENANT)) == [("alpha", "tenant id in here")]
    assert look(b"my alpha-research", "alpha-research") == [
        ("alpha-research", "tenant name in here")
    ]


def test_a_short_name_and_another_tenants_canary_are_none() -> None:
    assert look(b"alphabet") == []
    assert look(canary("beta").encode()) == []


async def test_a_mark_is_found_over_the_end_of_a_chunk() -> None:
    found: list[tuple[str, str]] = []
    mark = canary("alpha").encode()
    channel = Channel(b"ab" + mark[:7], mark[7:10], mark[10:] + b"cd")
    tap = _ChannelTap(channel, Marks({TENANT: "alpha"}), lambda *seen: found.append(seen))
    got = b"".join([await tap.receive_some() for _ in range(3)])
    assert got == b"ab" + mark + b"cd"
    assert found == [("alpha", "prompt in what it received")]


def test_rows_are_looked_through_before_they_are_written() -> None:
    found: list[tuple[str, str]] = []
    table = Table()
    tap = StorageTap(table, Marks({TENANT: "alpha"}), lambda *seen: found.append(seen))
    tap.write("floors", {b"peer|" + TENANT.encode(): b"1"})
    assert found == [("alpha", "tenant id in its table floors")]
    assert table.rows == {b"peer|" + TENANT.encode(): b"1"}


def test_a_log_line_with_a_prompt_is_found_with_its_traceback_too() -> None:
    found: list[tuple[str, str, str]] = []
    where = "n2"
    tap = LogTap(
        ("alpha", "beta"),
        lambda: where,
        lambda node: lambda tenant, place: found.append((node, tenant, place)),
    )
    log = logging.getLogger("overlay.test_leaks")
    with tap.listening():
        log.debug("nothing of it")
        log.debug("the prompt was %s", canary("alpha"))
        assert found == [("n2", "alpha", "a log line")]
        try:
            raise ValueError(canary("beta"))
        except ValueError:
            log.exception("it broke")
        assert found[1:] == [("n2", "beta", "a log line")]
    log.debug("after the run %s", canary("alpha"))
    assert len(found) == 2
    assert logging.getLogger("overlay").level == logging.NOTSET
