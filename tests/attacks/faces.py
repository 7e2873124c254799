"""The HTTP face of an honest host over loopback, and a client that says its bytes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from overlay.address import Address
from overlay.config import PeerConfig
from overlay.http.app import make_app
from overlay.http.face import PeerFront, serve_http_face
from overlay.http.limits import HttpLimits
from overlay.http.server import serve_http
from overlay.node import Node
from overlay.request import Scope
from tests.attacks.victim import BETA, QUESTION, Victim
from tests.attacks.worlds import real_overlay
from tests.overlay.http.world import Answer, Client

CHAT = "/v1/chat/completions"
HERE = Address("127.0.0.1", 0)


@dataclass(frozen=True)
class Face:
    """Where an honest host's HTTP face listens, and the tokens that an issuer would make."""

    victim: Victim
    port: int

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        async with await trio.open_tcp_stream(HERE.host, self.port) as stream:
            yield Client(stream)

    async def raw(self, data: bytes) -> Answer:
        """The first answer to these bytes. Raises Hung where there is none."""
        async with self.client() as client:
            return await client.ask(data, "POST" if data.startswith(b"POST") else "GET")

    async def chat(self, token: str | None, *headers: str, **fields: object) -> Answer:
        """One chat, with that bearer token."""
        shown = () if token is None else (f"Authorization: Bearer {token}",)
        return await self.raw(self.request(CHAT, *shown, *headers, **fields))

    def request(self, path: str, *headers: str, host: str = HERE.host, **fields: object) -> bytes:
        messages = [{"role": "user", "content": QUESTION}]
        body = json.dumps({"messages": messages, "max_tokens": 4, "seed": 1, **fields}).encode()
        lines = [f"POST {path} HTTP/1.1", f"Host: {host}"]
        lines += [f"Content-Length: {len(body)}", *headers]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body

    def token(
        self,
        tenant: str = BETA,
        *,
        scope: Scope = Scope.INFER,
        ttl_s: float = 3600.0,
        ago_s: float = 0.0,
        name: str = "honest",
    ) -> str:
        """A token that the overlay's issuer has made; of one name there is one."""
        authority = self.victim.world.authority
        assert authority is not None
        _, token = authority.issue_token(
            authority.tenant_id(tenant),
            name,
            ttl_s=ttl_s,
            scopes=[scope.value],
            secret=self.victim.world.entropy(f"token {name}").secret,
            now_unix_s=self.victim.now_unix_s - ago_s,
        )
        return token.text


async def _serve(node: Node, limits: HttpLimits, *, task_status: trio.TaskStatus[int]) -> None:
    """The same application under shorter times, or with fewer places."""
    listeners = await trio.open_tcp_listeners(0, host=HERE.host)

    async def serve(task_status: trio.TaskStatus[None]) -> None:
        await serve_http(
            make_app(PeerFront(node, 60.0)),
            listeners,
            clock=node.ports.clock,
            entropy=node.ports.entropy,
            limits=limits,
            task_status=task_status,
        )

    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
        task_status.started(listeners[0].socket.getsockname()[1])


@asynccontextmanager
async def faced_overlay(**limits: float) -> AsyncIterator[Face]:
    """A real overlay whose first host serves HTTP, with the product's limits but for these."""
    async with real_overlay() as victim, trio.open_nursery() as nursery:
        node = victim.nodes[0]
        if limits:
            port = await nursery.start(_serve, node, HttpLimits(**limits))  # type: ignore[arg-type]  # some are counts
        else:
            (url,) = await nursery.start(serve_http_face, node, PeerConfig(http=HERE))
            port = int(url.rpartition(":")[2])
        face = Face(victim, port)
        # What every control asks is cached before an attack is compared with.
        answer = await face.chat(face.token())
        assert answer.status == 200, answer.body
        yield face
        nursery.cancel_scope.cancel()


def code_of(answer: Answer) -> str:
    """The refusal's code; it quotes nothing of the request."""
    error: Mapping[str, object] = answer.error
    return str(error["code"])
