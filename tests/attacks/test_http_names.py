"""Certificates for HTTP faces that a host has no right to: whole peers, the issuer's among them.

The adversary holds the keys of an enrolled host, which was granted one name; the honest host beside
it was granted others.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chaos.entropy import SeededEntropy
from chaos.world import until
from overlay.control.http_name_messages import ChangeHttpNames
from overlay.control.http_names import change
from overlay.errors import OverlayError
from overlay.http.issuing import AHEAD_S, EACH_S, PROTOCOL
from overlay.transport.connection import Connection
from security.errors import HostUnknown, NameNotGranted, Refused, SecurityError
from security.http_certificate import HttpCertificate
from security.http_request import make_http_request, open_http_answer
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


@simulated
async def test_a_member_that_is_no_issuer_answers_for_one() -> None:
    """A host of the overlay is asked for a certificate, and can make up none."""
    async with granted() as (thief, _):
        victim = thief.victim
        async with thief.holder.connected(victim.honest[1]) as connection:
            with pytest.raises(SecurityError, match="not an issuer"):
                await thief.ask(connection, OWN)
        stranger = KeyHolder(victim, victim.guest.identity)
        assert stranger.peer_id == thief.peer_id
        desk = victim.nodes[0].desk
        assert desk is not None
        foreign = PeerId("12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5")
        with pytest.raises(HostUnknown):
            desk.certify_http(foreign, thief.request(OWN, peer_id=foreign))
