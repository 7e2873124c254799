"""HTTP/1.1 of the fake inference server: one request and one response on a connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import h11
import trio


@dataclass(eq=False)
class Channel:
    """The response side of one connection."""

    connection: h11.Connection
    stream: trio.SocketStream
    begun: bool = False

    async def whole(
        self, status: int, body: bytes, kind: str = "application/json", **headers: str
    ) -> None:
        if self.begun:
            raise trio.BrokenResourceError
        fields = [("content-type", kind), ("content-length", str(len(body)))]
        fields += [*headers.items(), ("connection", "close")]
        await self._send(h11.Response(status_code=status, headers=fields))
        await self.data(body)
        await self.end()

    async def begin(self, kind: str) -> None:
        self.begun = True
        fields = [("content-type", kind), ("transfer-encoding", "chunked")]
        await self._send(h11.Response(status_code=200, headers=fields))

    async def data(self, data: bytes) -> None:
        await self._send(h11.Data(data=data))

    async def end(self) -> None:
        await self._send(h11.EndOfMessage())

    async def _send(self, event: Any) -> None:
        data = self.connection.send(event)
        if data:
            await self.stream.send_all(data)


async def read_request(
    connection: h11.Connection, stream: trio.SocketStream
) -> tuple[h11.Request, bytes]:
    request: h11.Request | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some(1 << 16))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage) and request is not None:
            return request, bytes(body)
        else:
            raise trio.BrokenResourceError
