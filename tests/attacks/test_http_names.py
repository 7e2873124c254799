"""Certificates for HTTP faces that a host has no right to: whole peers, the issuer's among them.

The adversary holds the keys of an enrolled host, which was granted one name; the honest host beside
it was granted others.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chaos.entropy import SeededEntropy
from chaos.issuing import MemoryFiles
from chaos.world import until
from overlay.config import PeerConfig
from overlay.control.http_name_messages import ChangeHttpNames
from overlay.control.http_names import change
from overlay.errors import OverlayError
from overlay.home import HomeFile
from overlay.http.face import granted_to
from overlay.http.issuing import AHEAD_S, EACH_S, PROTOCOL
from overlay.transport.connection import Connection
from overlay.transport.hello import FEATURE_ISSUES
from overlay.transport.stream import Stream
from security.certificate import DAY_S, IssuerKey
from security.errors import HostUnknown, NameNotGranted, Refused, SecurityError
from security.http_certificate import HttpCertificate, certify_http
from security.http_request import (
    HttpIssued,
    HttpRefusal,
    make_http_request,
    open_http_answer,
    refuse_http_as,
    verify_http_request,
)
from security.peer_id import PeerId
from tests.attacks.adversary import KeyHolder, member_of_beta, revoke
from tests.attacks.victim import Victim
from tests.attacks.worlds import honest_overlay, simulated

OWN, HONEST = "guest.example", "llm.example"


@dataclass
class NameThief:
    """Holds an enrolled host's keys, and makes any key it likes for a face."""

    victim: Victim
    holder: KeyHolder

    @property
    def peer_id(self) -> PeerId:
        return self.holder.peer_id

    def key(self, name: str = "own") -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(SeededEntropy(1, f"face {name}").secret(32))

    def request(self, *names: str, peer_id: PeerId | None = None) -> bytes:
        overlay_id = self.holder.identity.trust.overlay_id
        return make_http_request(self.key(), overlay_id, peer_id or self.peer_id, sorted(names))

    async def ask(self, connection: Connection, *names: str, data: bytes = b"") -> HttpCertificate:
        """What the issuer makes of it. Raises what it says, or SecurityError."""
        answer = await connection.call(PROTOCOL, data or self.request(*names), timeout_s=9)
        trust = self.holder.identity.trust
        return open_http_answer(
            answer, self.key(), sorted(names), self.peer_id, trust, self.victim.now_unix_s
        )


@asynccontextmanager
async def granted() -> AsyncIterator[tuple[NameThief, Connection]]:
    """The thief on a connection to the issuer's host; :data:`OWN` is its own by right."""
    async with honest_overlay(issues=True) as victim:
        desk = victim.nodes[0].desk
        assert desk is not None
        grants = {victim.guest.identity.peer_id: OWN, victim.nodes[1].peer_id: HONEST}
        for peer_id, name in grants.items():
            change(desk, ChangeHttpNames(peer=peer_id, names=[name]))
        thief = NameThief(victim, member_of_beta(victim))
        async with thief.holder.connected(victim.honest[0]) as connection:
            yield thief, connection


@simulated
async def test_control_a_host_gets_the_name_that_it_was_granted() -> None:
    async with granted() as (thief, connection):
        assert (await thief.ask(connection, OWN)).names == (OWN,)


@simulated
async def test_an_http_name_that_was_not_granted() -> None:
    """Another host's, one below or above its own, all at once, and beside its own."""
    async with granted() as (thief, connection), thief.victim.unharmed(thief.peer_id):
        for names in (
            (HONEST,),
            (OWN, HONEST),
            ("a." + OWN,),
            ("*." + OWN,),
            ("*.example",),
            ("10.0.0.1",),
            ("localhost",),
            ("127.0.0.1",),
        ):
            with pytest.raises(SecurityError):
                await thief.ask(connection, *names)
        with pytest.raises(NameNotGranted):
            await thief.ask(connection, HONEST)
        assert (await thief.ask(connection, OWN)).names == (OWN,)


@simulated
async def test_an_http_certificate_in_another_hosts_name() -> None:
    """The honest host's request, seen or made up, on the thief's connection."""
    async with granted() as (thief, connection), thief.victim.unharmed(thief.peer_id):
        honest = thief.victim.nodes[1].peer_id
        with pytest.raises(Refused, match="invalid"):
            await thief.ask(connection, HONEST, data=thief.request(HONEST, peer_id=honest))


@simulated
async def test_an_http_certificate_for_another_hosts_key() -> None:
    """A key that the thief does not hold, and identity keys, which are for peers alone."""
    async with granted() as (thief, connection), thief.victim.unharmed(thief.peer_id):
        body = msgspec.msgpack.decode(thief.request(OWN))
        honest = thief.victim.honest[1].identity.keys.identity
        for key in (thief.key("another"), honest, thief.holder.identity.keys.identity):
            body["key"] = key.public_key().public_bytes_raw()
            with pytest.raises(Refused, match="invalid"):
                await thief.ask(connection, OWN, data=msgspec.msgpack.encode(body))
        own = thief.holder.identity
        with_identity = make_http_request(
            own.keys.identity, own.trust.overlay_id, own.peer_id, [OWN]
        )
        with pytest.raises(Refused, match="invalid"):
            await thief.ask(connection, OWN, data=with_identity)


@simulated
async def test_an_http_certificate_for_a_host_that_is_revoked() -> None:
    async with granted() as (thief, connection):
        revoke(thief.victim, thief.peer_id)
        await until(lambda: connection.closed is not None)
        with pytest.raises((OverlayError, SecurityError)):
            await thief.ask(connection, OWN)
        desk = thief.victim.nodes[0].desk
        assert desk is not None
        with pytest.raises(Refused, match="revoked"):
            desk.certify_http(thief.peer_id, thief.request(OWN))


@simulated
async def test_http_certificates_without_end() -> None:
    """A host gets some ahead of time, then one each so many seconds; other hosts get theirs."""
    async with granted() as (thief, connection), thief.victim.unharmed(thief.peer_id):
        for _ in range(int(AHEAD_S // EACH_S)):
            await thief.ask(connection, OWN)
        with pytest.raises(Refused, match="too often"):
            await thief.ask(connection, OWN)
        honest = thief.victim.nodes[1]
        (issuing,) = honest.peers.issuers()
        data = thief.request(HONEST, peer_id=honest.peer_id)
        answer = await issuing.call(PROTOCOL, data, timeout_s=9)
        trust, now_unix_s = thief.holder.identity.trust, thief.victim.now_unix_s
        made = open_http_answer(answer, thief.key(), [HONEST], honest.peer_id, trust, now_unix_s)
        assert made.names == (HONEST,)


@simulated
async def test_http_names_that_were_not_granted_without_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Requests that are refused: few are looked at, and one of them is in the log."""
    async with granted() as (thief, connection), thief.victim.unharmed(thief.peer_id):
        caplog.clear()
        refused = set()
        for _ in range(100):
            with pytest.raises(Refused) as caught:
                await thief.ask(connection, HONEST)
            refused.add(type(caught.value))
        assert refused == {NameNotGranted, Refused}
        with pytest.raises(Refused, match="too often"):
            await thief.ask(connection, OWN)
        said = [each for each in caplog.records if each.name == "overlay.http.issuing"]
        assert len(said) == 1


@dataclass
class FalseIssuer:
    """Says that it is an issuer, and answers with all that a host without an issuer's key can.

    ``left`` are the answers that it has not given yet; the last one is given again and again.
    """

    thief: NameThief
    own: bytes
    """The answer with its own certificate, of the true issuer."""

    left: list[str] = field(
        default_factory=lambda: [
            "its own",
            "its leaf",
            "as the issuer",
            "garbage",
            "no",
            "no",
            "no",
        ]
    )

    async def __call__(self, connection: Connection, stream: Stream) -> None:
        await stream.send(self._answer(self.left[0], stream.body))
        await stream.finish()
        if len(self.left) > 1:
            self.left.pop(0)

    def _answer(self, how: str, request: bytes) -> bytes:
        if how == "its own":
            return self.own
        if how == "garbage":
            return b"\x00"
        if how == "no":
            return refuse_http_as(HttpRefusal.NOT_GRANTED, [HONEST])
        me, honest = self.thief.holder.identity, self.thief.victim.honest[1]
        asked = verify_http_request(request, me.trust.overlay_id, honest.identity.peer_id)
        (true,) = me.trust.issuers.values()
        issuer = IssuerKey(
            private=me.keys.identity,
            der=me.leaf if how == "its leaf" else true.der,
            issuer_id=true.issuer_id,
            overlay_id=true.overlay_id,
        )
        now_unix_s = self.thief.victim.now_unix_s
        secret = SeededEntropy(2, "false issuer").secret
        made = certify_http(issuer, asked.public, asked.names, secret, now_unix_s, lifetime_s=DAY_S)
        return msgspec.msgpack.encode(HttpIssued(v=1, certificate=made, issuer=issuer.der))


@simulated
async def test_a_member_that_is_no_issuer_answers_for_one() -> None:
    """While the true one is down: nothing that it makes up is shown, and no start ends."""
    async with granted() as (thief, connection):
        victim = thief.victim
        own = await connection.call(PROTOCOL, thief.request(OWN), timeout_s=9)
        false = FalseIssuer(thief, own)
        thief.holder.handlers[PROTOCOL] = false
        files, honest = MemoryFiles(), victim.honest[1]
        certificate = granted_to(honest.running, PeerConfig(http_names=(HONEST,)), files)
        assert certificate is not None
        victim.world.kill(victim.honest[0])
        async with thief.holder.connected(honest, features=FEATURE_ISSUES):
            await until(lambda: honest.running.peers.up() == [thief.peer_id])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(certificate.open)
                await until(lambda: len(false.left) == 1, timeout_s=600)
                assert files.read(HomeFile.HTTP) is None
                ((_, line),) = certificate.posture()
                assert str(thief.peer_id) in line, "whose word it is"
                await victim.world.start(victim.honest[0])
                await until(lambda: certificate.posture() == [], timeout_s=600)
        assert certificate.names == {HONEST}


@simulated
async def test_a_host_without_a_desk_is_asked_for_a_certificate() -> None:
    """And a host that this issuer has never enrolled is certified by nobody."""
    async with granted() as (thief, _):
        victim = thief.victim
        async with thief.holder.connected(victim.honest[1]) as connection:
            with pytest.raises(SecurityError, match="not an issuer"):
                await thief.ask(connection, OWN)
        desk = victim.nodes[0].desk
        assert desk is not None
        foreign = PeerId("12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5")
        with pytest.raises(HostUnknown):
            desk.certify_http(foreign, thief.request(OWN, peer_id=foreign))
