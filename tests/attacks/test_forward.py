"""Requests that a host has no right to hand over, or that would be run in another's name."""

from __future__ import annotations

import msgspec
import pytest

from chaos.world import until
from overlay.errors import OverlayError, PeerGone, StreamReset
from overlay.forward import PROTOCOL, Accept, ForwardRequest, Refuse, encode
from overlay.transport.connection import Connection
from overlay.transport.frame import ResetCode
from overlay.transport.stream import Stream
from overlay.wire import read
from security.errors import SecurityError
from tests.attacks.adversary import Stranger, host_of, member_of_beta, revoke
from tests.attacks.victim import ALPHA, BETA, QUESTION, Victim
from tests.attacks.worlds import honest_overlay, simulated

FIRST = msgspec.msgpack.Decoder(Accept | Refuse)


def forward(victim: Victim, of: str, /, **changes: object) -> bytes:
    """A forward as an honest ingress would send it, for a prompt that is cached there."""
    body = b'{"messages": [{"role": "user", "content": "%s"}], "max_tokens": 4, "seed": 1}'
    request = ForwardRequest(
        v=1,
        request_id="ab" * 16,
        attempt=0,
        tenant=of if len(of) == 32 else victim.tenant(of),
        token_id="an honest client's",
        chat=True,
        model="toy",
        body=body % QUESTION.encode(),
        token_ids=None,
        emitted=[],
        seed=1,
        deadline_ms=10_000,
        hops=1,
    )
    return encode(msgspec.structs.replace(request, **changes))


async def first_answer(connection: Connection, message: bytes) -> Accept | Refuse:
    """What a peer says first to a forward. Raises StreamReset where it says nothing."""
    async with connection.open(PROTOCOL, message) as stream:
        data = await stream.receive()
        assert data is not None
        return read(FIRST, data, "an answer")


async def refusal(connection: Connection, message: bytes) -> str:
    answer = await first_answer(connection, message)
    assert isinstance(answer, Refuse)
    return answer.code


async def all_of(stream: Stream) -> None:
    """Reads to the end."""
    while await stream.receive() is not None:
        pass


@simulated
async def test_control_a_member_forwards_for_its_own_tenant() -> None:
    async with honest_overlay() as victim:
        own = member_of_beta(victim)
        model = victim.nodes[0].ports.engine.capabilities().models[0].name
        async with own.connected(victim.honest[0]) as connection:
            answer = await first_answer(connection, forward(victim, BETA, model=model))
            assert isinstance(answer, Accept)


@simulated
async def test_a_member_of_one_tenant_forwards_for_another() -> None:
    """Before anything of that tenant is looked at: the answer is the same for a made-up one."""
    async with honest_overlay() as victim:
        own = member_of_beta(victim)
        async with victim.unharmed(by=own.peer_id), own.connected(victim.honest[0]) as connection:
            for tenant in (ALPHA, "0" * 32, victim.tenant(ALPHA)[::-1]):
                for model in ("toy", "no such model", victim.tenant(ALPHA)):
                    message = forward(victim, tenant, model=model)
                    assert await refusal(connection, message) == "not_a_member"
            # With what else could make a difference.
            for odd in ({"hops": 2}, {"deadline_ms": 0}, {"variant": "x y"}, {"body": b"{"}):
                assert await refusal(connection, forward(victim, ALPHA, **odd)) == "not_a_member"


@simulated
async def test_a_host_of_no_tenant_forwards() -> None:
    async with honest_overlay() as victim:
        own = host_of(victim)
        async with victim.unharmed(by=own.peer_id), own.connected(victim.honest[1]) as connection:
            for tenant in (ALPHA, BETA):
                assert await refusal(connection, forward(victim, tenant)) == "not_a_member"


@pytest.mark.parametrize("field", ["tenant", "cache_salt", "kv_transfer_params"])
@simulated
async def test_another_tenant_in_the_body_of_a_forward(field: str) -> None:
    """The tenant is the forward's own, and a body that would say more is not run."""
    async with honest_overlay() as victim:
        own = member_of_beta(victim)
        messages = [{"role": "user", "content": QUESTION}]
        body = msgspec.json.encode({"messages": messages, field: victim.tenant(ALPHA)})
        async with victim.unharmed(by=own.peer_id), own.connected(victim.honest[0]) as connection:
            assert await refusal(connection, forward(victim, BETA, body=body)) == "cannot_read"


@simulated
async def test_a_request_that_was_forwarded_once_is_forwarded_again() -> None:
    """A loop: hops above one are refused, whoever sends them."""
    async with honest_overlay() as victim:
        own = member_of_beta(victim)
        async with victim.unharmed(by=own.peer_id), own.connected(victim.honest[0]) as connection:
            for hops in (2, 255):
                message = forward(victim, BETA, hops=hops)
                assert await refusal(connection, message) == "too_many_hops"


@simulated
async def test_a_stranger_forwards_gossips_and_asks_without_a_token() -> None:
    """On a client's connection there are a client's protocols, and a token is asked for."""
    async with honest_overlay() as victim:
        stranger = Stranger(victim)
        async with victim.unharmed(), stranger.connected(victim.honest[0]) as connection:
            for protocol in (PROTOCOL, "/rhizome/gossip/1", "/rhizome/control/1", "/"):
                with pytest.raises(StreamReset) as refused:
                    await connection.call(protocol, forward(victim, BETA), timeout_s=5)
                assert refused.value.code == ResetCode.UNSUPPORTED


@simulated
async def test_a_host_is_revoked_while_its_forward_runs() -> None:
    """What runs for it ends at once, with its connection."""
    async with honest_overlay() as victim:
        own, node = member_of_beta(victim), victim.nodes[0]
        model = node.ports.engine.capabilities().models[0].name
        body = b'{"messages": [{"role": "user", "content": "go on"}], "max_tokens": 2000}'
        async with own.connected(victim.honest[0]) as connection:
            message = forward(victim, BETA, model=model, body=body)
            async with connection.open(PROTOCOL, message) as stream:
                assert await stream.receive()
                assert node.ports.engine.load().running == 1
                revoke(victim, own.peer_id)
                with pytest.raises(OverlayError):
                    await all_of(stream)
            await until(lambda: not node.ports.engine.load().running)
            with pytest.raises(PeerGone):
                await first_answer(connection, forward(victim, BETA, model=model))
        async with victim.unharmed(by=own.peer_id):
            with pytest.raises((SecurityError, OverlayError)):
                async with own.connected(victim.honest[0]):
                    pass


MALFORMED = {
    "tenant": "A" * 32,
    "request_id": "",
    "hops": 0,
    "deadline_ms": -1,
    "v": 2,
    "body": b"x" * ((1 << 20) + 1),
    "emitted": [1 << 32],
    "token_id": "x" * 257,
    "seed": -1,
}


@pytest.mark.parametrize("field", MALFORMED)
@simulated
async def test_a_malformed_forward(field: str) -> None:
    """It costs its stream, and the connection goes on."""
    async with honest_overlay() as victim:
        own = member_of_beta(victim)
        async with victim.unharmed(by=own.peer_id), own.connected(victim.honest[0]) as connection:
            message = forward(victim, BETA, **{field: MALFORMED[field]})
            if len(message) > 1 << 20:
                message = message[: 1 << 20]
            with pytest.raises(StreamReset) as refused:
                await first_answer(connection, message)
            assert refused.value.code == ResetCode.PROTOCOL
            assert await refusal(connection, forward(victim, ALPHA)) == "not_a_member"
