"""Simulated peers with an HTTP face: their tokens, and a face that listens on loopback."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx2
import openai
import trio

from chaos.world import Host, World, world_of
from inference.toy import ToyConfig
from overlay.address import Address
from overlay.config import PeerConfig
from overlay.http.face import serve_http_face
from overlay.request import Scope
from security.authority import Authority

QUICK = ToyConfig(prefill_tokens_per_s=1e9, decode_s_per_token=0.0, end_every=0)
SOON_S = 20.0


def token_of(world: World, tenant: str, *, ttl_s: float = 3600, scope: Scope = Scope.INFER) -> str:
    """A token that the overlay's issuer made."""
    assert world.authority is not None
    return issued(world.authority, world, tenant, ttl_s, scope)


def issued(authority: Authority, world: World, tenant: str, ttl_s: float, scope: Scope) -> str:
    _, token = authority.issue_token(
        authority.tenant_id(tenant),
        "test",
        ttl_s=ttl_s,
        scopes=[scope.value],
        secret=world.entropy(f"token {tenant}").secret,
        now_unix_s=world.hosts[0].running.ports.clock.unix_s(),
    )
    return token.text


@dataclass(frozen=True, kw_only=True)
class Served:
    """A peer whose HTTP face listens on loopback."""

    world: World
    host: Host
    url: str

    def client(
        self, key: str | None = None, *, tls: ssl.SSLContext | None = None
    ) -> openai.AsyncOpenAI:
        """The official client, which tries everything once."""
        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1",
            api_key=key or token_of(self.world, "default"),
            max_retries=0,
            http_client=httpx2.AsyncClient(trust_env=False, verify=tls or True),
        )


@asynccontextmanager
async def served(engine: ToyConfig = QUICK, **settings: object) -> AsyncIterator[Served]:
    config = PeerConfig(http=Address("127.0.0.1", 0), **settings)  # type: ignore[arg-type]  # by name
    with trio.fail_after(SOON_S):
        async with world_of(1, [engine]) as world, trio.open_nursery() as nursery:
            host = world.hosts[0]
            (url,) = await nursery.start(serve_http_face, host.running, config)
            yield Served(world=world, host=host, url=url)
            nursery.cancel_scope.cancel()
