"""Asks the running peer of this host over its Unix socket."""

from __future__ import annotations

from typing import TypeVar

import trio

from overlay.control.messages import (
    PROTOCOL,
    Command,
    ControlRefusal,
    Reply,
    decode_reply,
    encode,
)
from overlay.errors import ConfigError, HomeError, RequestError
from overlay.home import Home
from overlay.transport.dial import dial_socket

TIMEOUT_S = 10.0

R = TypeVar("R", bound=Reply)


async def call(home: Home, command: Command, expected: type[R]) -> R:
    """One command and its reply.

    Raises:
        HomeError: When no peer runs on this home folder, or it does not answer.
        ConfigError: When the peer refuses the command; its message says what to do.
        RequestError: When the command was right, and cannot be done now.
    """
    connection = await dial_socket(home)
    async with trio.open_nursery() as nursery:
        await nursery.start(connection.run, {})
        data = await connection.call(PROTOCOL, encode(command), timeout_s=TIMEOUT_S)
        await connection.aclose(0, "done")
        nursery.cancel_scope.cancel()
    reply = decode_reply(data)
    if isinstance(reply, ControlRefusal):
        if reply.usage:
            raise ConfigError(reply.message)
        raise RequestError(reply.message, code="refused", status=409)
    if not isinstance(reply, expected):
        raise HomeError("the running peer is of another version: restart it")
    return reply
