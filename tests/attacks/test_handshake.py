"""Ways into the overlay's port that the handshake and HELLO refuse: real TLS over loopback."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial

import pytest
import trio

from chaos.entropy import SeededEntropy
from chaos.world import Host, until
from overlay.address import Address
from overlay.errors import OverlayError
from overlay.ports import PeerHint, SecureChannel
from overlay.transport import frame
from overlay.transport.hello import encode_hello
from overlay.transport.tls import CLIENT_ALPN, PEER_ALPN, TlsChannel, dialling_context
from security.certificate import IssuerKey, dns_name_of, issue_leaf
from security.errors import Revoked, SecurityError
from tests.attacks.adversary import (
    DAY_S,
    KeyHolder,
    foreign_peer,
    host_of,
    member_of_beta,
    revoke,
    with_leaf_of,
)
from tests.attacks.victim import Victim
from tests.attacks.worlds import honest_overlay, real_overlay, simulated
from tests.security.world import forged_leaf

HERE = Address("127.0.0.1", 0)
SOON_S = 20.0
REFUSED = (SecurityError, OverlayError, trio.BrokenResourceError, OSError)


async def is_admitted(adversary: KeyHolder, host: Host, **hello: object) -> bool:
    """Whether a peer counts it as up."""
    try:
        async with adversary.connected(host, **hello) as connection:
            up = host.running.peers.up
            await until(lambda: connection.closed or adversary.peer_id in up(), step_s=0.01)
            return connection.closed is None
    except REFUSED:
        return False


async def is_refused(victim: Victim, adversary: KeyHolder, **hello: object) -> None:
    """No honest host admits it, and nothing comes of its trying."""
    async with victim.unharmed():
        for host in victim.honest:
            assert not await is_admitted(adversary, host, **hello)
            assert adversary.peer_id not in host.running.peers.up()


async def test_control_a_host_with_a_leaf_of_the_overlay_is_admitted() -> None:
    async with real_overlay() as victim:
        for insider in (host_of(victim), member_of_beta(victim)):
            async with victim.unharmed(by=insider.peer_id):
                assert await is_admitted(insider, victim.honest[0])


@asynccontextmanager
async def raw(host: Host, context: ssl.SSLContext) -> AsyncIterator[TlsChannel]:
    """A TLS channel of anybody's making to a peer's port."""
    address = host.running.addresses[0]
    stream = await trio.open_tcp_stream(address.host, address.port)
    channel = TlsChannel(stream, context, server_side=False)
    try:
        yield channel
    finally:
        await channel.aclose()


async def gets_a_byte(host: Host, context: ssl.SSLContext, alpn: str = PEER_ALPN) -> bool:
    """Whether the peer says anything inside TLS; only then has it let somebody in."""
    async with raw(host, context) as channel:
        try:
            await channel.handshake(alpn)
            return bool(await channel.receive_some())
        except REFUSED:
            return False


async def test_no_certificate() -> None:
    async with real_overlay() as victim:
        roots = victim.guest.identity.trust.roots
        context = dialling_context(roots.in_force, PEER_ALPN, credentials=None, named=False)
        async with victim.unharmed():
            assert not await gets_a_byte(victim.honest[0], context)


async def test_a_certificate_of_a_foreign_root() -> None:
    async with real_overlay() as victim:
        foreign = foreign_peer(victim)
        # It believes our root as well, else it would hang up by itself.
        trust = replace(foreign.identity.trust, roots=victim.guest.identity.trust.roots)
        await is_refused(victim, replace(foreign, identity=replace(foreign.identity, trust=trust)))


async def test_an_expired_certificate() -> None:
    async with real_overlay() as victim:
        await is_refused(victim, with_leaf_of(victim, issued_ago_s=2 * DAY_S))


async def test_a_certificate_that_is_not_yet_valid() -> None:
    async with real_overlay() as victim:
        await is_refused(victim, with_leaf_of(victim, issued_ago_s=-DAY_S))


async def test_a_certificate_that_names_another_overlay() -> None:
    async with real_overlay() as victim:
        await is_refused(victim, careless(victim, overlay_id="0" * 32))


async def test_a_hello_of_another_overlay() -> None:
    async with real_overlay() as victim:
        insider = host_of(victim)
        await is_refused(victim, insider, overlay_id="0" * 32)


def careless(
    victim: Victim, *, overlay_id: str = "", peer_id: str = "", dns: str = ""
) -> KeyHolder:
    """A host whose leaf the issuer has signed with names that are not those of its key."""
    assert victim.world.authority is not None
    own, issuer = host_of(victim), victim.world.authority.issuer
    uri = f"spiffe://{overlay_id or issuer.overlay_id}/host/{peer_id or own.peer_id}"
    leaf = forged_leaf(issuer, own.identity.keys, uri=uri, dns=dns, now_s=victim.now_unix_s)
    return replace(own, identity=replace(own.identity, leaf=leaf))


async def test_control_a_leaf_made_by_hand_that_is_wrong_in_nothing() -> None:
    async with real_overlay() as victim:
        assert await is_admitted(careless(victim), victim.honest[0])


@pytest.mark.parametrize("name", ["spiffe", "dns"])
async def test_a_certificate_with_the_name_of_another_key(name: str) -> None:
    async with real_overlay() as victim:
        other = victim.nodes[1].peer_id
        names = {"peer_id": other} if name == "spiffe" else {"dns": dns_name_of(other)}
        await is_refused(victim, careless(victim, **names))


async def test_a_leaf_used_as_an_issuer() -> None:
    async with real_overlay() as victim:
        insider, made_up = member_of_beta(victim), host_of(victim)
        authority = victim.world.authority
        assert authority is not None
        rogue = IssuerKey(
            private=insider.identity.keys.identity,
            der=insider.identity.leaf,
            issuer_id=authority.issuer.issuer_id,
            overlay_id=authority.issuer.overlay_id,
        )
        secret = SeededEntropy(1, "rogue").secret
        certificate = replace(rogue, der=authority.issuer.der)
        leaf = issue_leaf(certificate, made_up.peer_id, secret, victim.now_unix_s)
        for chain in (insider.identity.leaf, authority.issuer.der):
            identity = replace(made_up.identity, leaf=leaf, issuer=chain)
            await is_refused(victim, replace(made_up, identity=identity))


async def test_a_stolen_certificate_without_its_key() -> None:
    async with real_overlay() as victim:
        insider = host_of(victim)
        stolen = replace(insider.identity, leaf=victim.guest.identity.leaf)
        thief = replace(insider, identity=stolen)
        async with victim.unharmed():
            with pytest.raises(ssl.SSLError):  # OpenSSL does not even load it
                await thief.dial(victim.honest[0])


async def test_a_hello_that_names_another_peer_than_the_certificate() -> None:
    async with real_overlay() as victim:
        await is_refused(victim, host_of(victim), peer_id=victim.nodes[1].peer_id)


@simulated
async def test_a_hello_that_was_held_back_over_a_revocation() -> None:
    """It is judged again when its HELLO has come, and never counts as up."""
    async with honest_overlay() as victim:
        insider, host = host_of(victim), victim.honest[0]
        channel = (await insider.dial(host)).channel
        assert await channel.receive_some(), "its certificate was judged"
        revoke(victim, insider.peer_id)
        with trio.fail_after(5):
            await channel.send_all(encode_hello(insider.hello()))
            while await channel.receive_some():
                assert insider.peer_id not in host.running.peers.up()
        await channel.aclose()


async def test_another_peer_than_the_one_that_was_dialled() -> None:
    """An insider listens where discovery says that a host which is off can be reached."""
    async with real_overlay() as victim:
        insider, came = host_of(victim), []
        off = victim.guest.identity.peer_id

        async def accept(channel: SecureChannel) -> None:
            came.append(channel)
            await channel.channel.receive_some()

        async with trio.open_nursery() as nursery:
            (at,) = await nursery.start(insider.transport.listen, [HERE], accept)
            async with victim.unharmed():
                a = victim.nodes[0]
                failed = a.peers.failed_dials
                a.peers.hint(PeerHint(peer_id=off, addresses=(at,)))
                await until(lambda: a.peers.failed_dials > failed, step_s=0.01)
                assert off not in a.peers.up()
            assert came == []
            # The control: under its own name it is dialled there, and a handshake completes.
            a.peers.hint(PeerHint(peer_id=insider.peer_id, addresses=(at,)))
            await until(lambda: came, step_s=0.01)
            nursery.cancel_scope.cancel()


async def test_a_host_is_told_falsely_that_it_is_revoked() -> None:
    """By an insider that it dials: that is a line for its owner, and nothing else."""
    async with real_overlay() as victim:
        insider, a = host_of(victim), victim.nodes[0]

        async def refuse(channel: SecureChannel) -> None:
            word = frame.encode_goaway(frame.GoawayCode.REFUSED, 0, Revoked.__name__)
            await channel.channel.send_all(word)
            await channel.channel.receive_some()

        async with trio.open_nursery() as nursery:
            (at,) = await nursery.start(insider.transport.listen, [HERE], refuse)
            async with victim.unharmed(by=insider.peer_id):
                a.peers.hint(PeerHint(peer_id=insider.peer_id, addresses=(at,)))
                await until(lambda: bool(a.peers.refusals.posture()), step_s=0.01)
                assert insider.peer_id[-8:] in a.peers.refusals.posture()[0][1]
                assert not a.standing.is_revoked
            nursery.cancel_scope.cancel()
        # The control: an issuer's statement is believed.
        a.revoke(victim.world.revocation(a.peer_id))
        assert a.standing.is_revoked


def client_context(insider: KeyHolder, *alpn: str) -> ssl.SSLContext:
    """What a host dials with, but for what it offers."""
    credentials = insider.identity.credentials
    context = dialling_context(credentials.roots, PEER_ALPN, credentials=credentials, named=False)
    context.set_alpn_protocols(list(alpn))
    return context


@pytest.mark.parametrize("alpn", [(), ("h2",), ("rhizome-join/1",)], ids="+".join)
async def test_another_alpn(alpn: tuple[str, ...]) -> None:
    async with real_overlay() as victim:
        insider = member_of_beta(victim)
        async with victim.unharmed():
            host = victim.honest[0]
            assert not await gets_a_byte(
                host, client_context(insider, *alpn), alpn[-1] if alpn else ""
            )
        assert await gets_a_byte(host, client_context(insider, PEER_ALPN))


async def test_a_peers_hello_on_a_connection_without_a_certificate() -> None:
    async with real_overlay() as victim:
        insider, host = member_of_beta(victim), victim.honest[0]
        async with victim.unharmed():
            async with raw(host, client_context(insider, CLIENT_ALPN)) as channel:
                await channel.handshake(CLIENT_ALPN)
                await channel.send_all(encode_hello(insider.hello()))
                said = b""
                with suppress(trio.BrokenResourceError):
                    while data := await channel.receive_some():
                        said += data
            assert b"a peer without a certificate" in said
            assert insider.peer_id not in host.running.peers.up()


async def test_tls_1_2() -> None:
    async with real_overlay() as victim:
        context = client_context(member_of_beta(victim), PEER_ALPN)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
        async with victim.unharmed():
            assert not await gets_a_byte(victim.honest[0], context)


async def test_a_resumed_session() -> None:
    """Who was admitted once has nothing with which a later handshake would be shorter."""
    async with real_overlay() as victim:
        host = victim.honest[0]
        context = client_context(member_of_beta(victim), PEER_ALPN)
        async with victim.unharmed():
            async with raw(host, context) as channel:
                await channel.handshake(PEER_ALPN)
                assert await channel.receive_some()
                session = channel._tls.session  # type: ignore[attr-defined]
            async with raw(host, context) as channel:
                if session is not None:
                    channel._tls.session = session  # type: ignore[attr-defined]
                await channel.handshake(PEER_ALPN)
                assert not channel._tls.session_reused  # type: ignore[attr-defined]


async def test_a_host_that_was_revoked_before() -> None:
    async with real_overlay() as victim:
        revoke(victim, victim.guest.identity.peer_id)
        await is_refused(victim, member_of_beta(victim))


async def test_a_host_that_is_revoked_while_it_is_connected() -> None:
    async with real_overlay() as victim:
        insider, host = member_of_beta(victim), victim.honest[0]
        async with insider.connected(host) as connection:
            await until(lambda: insider.peer_id in host.running.peers.up(), step_s=0.01)
            revoke(victim, insider.peer_id)
            await until(lambda: connection.closed is not None, step_s=0.01)
            await until(lambda: insider.peer_id not in host.running.peers.up(), step_s=0.01)
        await is_refused(victim, insider)


async def test_a_host_whose_issuer_is_revoked() -> None:
    """All its hosts are turned away, and nobody serves its tenants any more."""
    async with real_overlay() as victim:
        authority = victim.world.authority
        assert authority is not None
        await victim.settle()
        revoke(victim, authority.issuer.issuer_id)
        assert not await is_admitted(member_of_beta(victim), victim.honest[0])
        await until(lambda: all(not node.peers.up() for node in victim.nodes), step_s=0.01)
        assert not any(len(node.tenants) for node in victim.nodes)


async def test_a_man_in_the_middle_who_alters_a_byte() -> None:
    """He holds the wire between an insider and a peer, and no key."""
    async with real_overlay() as victim:
        insider, host = member_of_beta(victim), victim.honest[0]
        there = host.running.addresses[0]

        async def carry(near: trio.SocketStream, far: trio.SocketStream, alter_at: int) -> None:
            passed = 0
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                async for data in near:
                    altered = bytearray(data)
                    if passed <= alter_at < passed + len(data):
                        altered[alter_at - passed] ^= 1
                    passed += len(data)
                    await far.send_all(altered)
                await far.send_eof()

        async def middle(stream: trio.SocketStream) -> None:
            far = await trio.open_tcp_stream(there.host, there.port)
            async with far, stream, trio.open_nursery() as nursery:
                nursery.start_soon(carry, stream, far, places[0])
                nursery.start_soon(carry, far, stream, places[1])

        places = [-1, -1]
        async with trio.open_nursery() as nursery:
            serve = partial(trio.serve_tcp, middle, 0, host="127.0.0.1")
            listeners = await nursery.start(serve)
            at = Address("127.0.0.1", listeners[0].socket.getsockname()[1])

            async def passes() -> bool:
                try:
                    with trio.fail_after(SOON_S):
                        channel = await insider.transport.dial(at, host.running.peer_id)
                        try:
                            return bool(await channel.channel.receive_some())
                        finally:
                            await channel.channel.aclose()
                except (*REFUSED, trio.TooSlowError):
                    return False

            assert await passes()  # the control: what is carried unaltered arrives
            async with victim.unharmed():
                for place in range(7, 1500, 199):
                    places[:] = [place, -1]
                    assert not await passes()
                    places[:] = [-1, place]
                    assert not await passes()
            nursery.cancel_scope.cancel()
