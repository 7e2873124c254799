"""Certificates of HTTP faces on hosts that are no issuer's, on whole peers under virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from chaos.clock import VirtualClock
from chaos.entropy import SeededEntropy
from chaos.issuing import MemoryFiles
from chaos.world import Host, World, until
from overlay.config import PeerConfig
from overlay.control.http_name_messages import ChangeHttpNames
from overlay.control.http_names import change
from overlay.errors import StorageFull
from overlay.home import HomeFile
from overlay.http.certificate import LOOK_S
from overlay.http.face import granted_to
from overlay.http.granted import START_S, GrantedCertificate
from security.authority import Authority
from security.certificate import parse_issuer
from security.certificate_form import BACKDATE_S
from tests.simulation.test_renewal import DAY_S, issued_world, simulate
from tests.simulation.test_root_rotation import rotating_world

NAMES = ("llm.example", "10.0.0.2")
LIFE_S = 600.0
LONG_S = 60.0


@dataclass
class Asking:
    """The issuer's host and another one, which wants names for its HTTP API."""

    world: World
    files: MemoryFiles = field(default_factory=MemoryFiles)

    @property
    def issuer(self) -> Host:
        return self.world.hosts[0]

    @property
    def host(self) -> Host:
        return self.world.hosts[1]

    def grant(self, *names: str, remove: bool = False) -> None:
        desk = self.issuer.running.desk
        assert desk is not None
        peer = self.host.identity.peer_id
        change(desk, ChangeHttpNames(peer=peer, names=list(names), remove=remove))

    def certificate(self, *names: str) -> GrantedCertificate:
        config = PeerConfig(http_names=names or NAMES)
        made = granted_to(self.host.running, config, self.files)
        assert made is not None
        return made

    @property
    def chain(self) -> list[x509.Certificate]:
        return x509.load_pem_x509_certificates(self.files.need(HomeFile.HTTP))

    @property
    def kept(self) -> x509.Certificate:
        """What stands in the file, whose chain ends in the overlay's root."""
        leaf, issuer = self.chain
        leaf.verify_directly_issued_by(issuer)
        assert issuer.public_bytes(Encoding.DER) == self.host.running.identity.issuer
        return leaf

    def kept_names(self) -> set[str]:
        found = self.kept.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return {str(name.value) for name in found}


@asynccontextmanager
async def asking(seed: int, leaf_s: float = LIFE_S) -> AsyncIterator[Asking]:
    async with issued_world(seed, 2, leaf_s=leaf_s) as world:
        await until(lambda: all(host.running.peers.up() for host in world.hosts))
        yield Asking(world)


def test_a_host_gets_what_it_was_granted_and_keeps_it_renewed() -> None:
    async def main() -> None:
        async with asking(1) as here:
            here.grant(*NAMES)
            certificate = here.certificate()
            await certificate.open()
            assert here.kept_names() == set(NAMES)
            assert certificate.names == {"llm.example"}
            first, context = here.kept, certificate.context
            life = first.not_valid_after_utc - first.not_valid_before_utc
            assert life.total_seconds() == LIFE_S + BACKDATE_S
            async with trio.open_nursery() as nursery:
                nursery.start_soon(certificate.keep)
                await trio.sleep(0.44 * LIFE_S)
                assert certificate.context is context
                await trio.sleep(0.14 * LIFE_S)
                assert certificate.context is not context
                assert here.kept.public_key() != first.public_key(), "each has a key of its own"
                await trio.sleep(3 * LIFE_S)
                ends = here.kept.not_valid_after_utc.timestamp()
                assert ends > here.host.running.ports.clock.unix_s() + 0.4 * LIFE_S
                assert certificate.posture() == []
                nursery.cancel_scope.cancel()

    simulate(910, main)


def test_where_hosts_have_theirs_for_weeks_it_lasts_a_day() -> None:
    """It cannot be revoked."""

    async def main() -> None:
        async with asking(11, leaf_s=30 * DAY_S) as here:
            here.grant(*NAMES)
            await here.certificate().open()
            life = here.kept.not_valid_after_utc - here.kept.not_valid_before_utc
            assert life.total_seconds() == DAY_S + BACKDATE_S

    simulate(921, main)


@pytest.mark.parametrize("granted", [(), ("llm.example",), ("*.llm.example", "10.0.0.3")])
def test_names_that_were_not_granted_are_told_in_one_line(granted: tuple[str, ...]) -> None:
    async def main() -> None:
        async with asking(2) as here:
            if granted:
                here.grant(*granted)
            certificate = here.certificate()
            with trio.move_on_after(START_S) as scope:
                await certificate.open()
            assert scope.cancelled_caught
            ((_, line),) = certificate.posture()
            missing = sorted(set(NAMES) - set(granted))
            assert f"rhizome ca http-name {here.host.identity.peer_id} {' '.join(missing)}" in line
            assert str(here.issuer.identity.peer_id) in line
            assert "\n" not in line
            assert here.files.read(HomeFile.HTTP) is None
            here.grant(*NAMES)
            await certificate.open()

    simulate(911, main)


def test_what_is_kept_needs_no_issuer_until_it_ends() -> None:
    async def main() -> None:
        async with asking(3) as here:
            here.grant(*NAMES)
            await here.certificate().open()
            first = here.kept
            here.world.kill(here.issuer)
            await until(lambda: not here.host.running.peers.up())
            certificate = here.certificate()
            with trio.fail_after(0):
                await certificate.open()
            assert here.kept == first
            async with trio.open_nursery() as nursery:
                nursery.start_soon(certificate.keep)
                await trio.sleep(0.6 * LIFE_S)
                ((name, words),) = certificate.posture()
                assert name == "http"
                assert "not renewed: no issuer's host is connected" in words
                await trio.sleep(0.5 * LIFE_S)
                assert "clients refuse it" in certificate.posture()[0][1]
                late = here.certificate()
                with trio.move_on_after(LONG_S):
                    await late.open()
                assert "closed until there is a certificate" in late.posture()[0][1]
                await here.world.start(here.issuer)
                await until(lambda: not certificate.posture(), timeout_s=LIFE_S)
                assert here.kept != first
                nursery.cancel_scope.cancel()

    simulate(912, main)


def test_without_one_that_is_kept_an_issuer_is_waited_for() -> None:
    async def main() -> None:
        async with asking(4) as here:
            here.grant(*NAMES)
            here.world.kill(here.issuer)
            await until(lambda: not here.host.running.peers.up())
            certificate = here.certificate()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(certificate.open)
                await trio.sleep(LONG_S)
                assert "no issuer's host is connected" in certificate.posture()[0][1]
                await here.world.start(here.issuer)
                await until(lambda: not certificate.posture(), timeout_s=LONG_S)
            assert here.kept_names() == set(NAMES)

    simulate(913, main)


def test_a_grant_after_the_start_is_asked_for_however_long_that_takes() -> None:
    async def main() -> None:
        async with asking(5) as here:
            here.world.kill(here.issuer)
            await until(lambda: not here.host.running.peers.up())
            certificate = here.certificate()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(certificate.open)
                await trio.sleep(LONG_S)
                await here.world.start(here.issuer)
                await until(lambda: "rhizome ca http-name" in certificate.posture()[0][1])
                await trio.sleep(LIFE_S)
                assert "rhizome ca http-name" in certificate.posture()[0][1], "and not 'too often'"
                here.grant(*NAMES)
                await until(lambda: not certificate.posture(), timeout_s=3 * LOOK_S)

    simulate(914, main)


def test_a_grant_that_is_taken_back_lasts_until_the_certificate_ends() -> None:
    async def main() -> None:
        async with asking(6) as here:
            here.grant(*NAMES)
            certificate = here.certificate()
            await certificate.open()
            here.grant("llm.example", remove=True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(certificate.keep)
                await trio.sleep(0.6 * LIFE_S)
                assert "has not granted llm.example" in certificate.posture()[0][1]
                nursery.cancel_scope.cancel()
            await here.certificate("10.0.0.2").open()
            assert here.kept_names() == {"10.0.0.2"}

    simulate(915, main)


def test_other_names_than_those_that_are_kept_are_asked_for() -> None:
    async def main() -> None:
        async with asking(7) as here:
            here.grant(*NAMES)
            await here.certificate().open()
            with_both = here.kept
            await here.certificate("llm.example").open()
            assert here.kept_names() == {"llm.example"}
            await here.certificate("10.0.0.2", "llm.example").open()
            assert here.kept != with_both
            assert here.kept_names() == set(NAMES)

    simulate(916, main)


@pytest.mark.parametrize("damaged", [b"", b"nothing", b"\xff" * 99])
def test_what_is_kept_and_damaged_is_asked_for_again(damaged: bytes) -> None:
    async def main() -> None:
        async with asking(8) as here:
            here.grant(*NAMES)
            here.files.write(HomeFile.HTTP, damaged)
            await here.certificate().open()
            assert here.kept_names() == set(NAMES)

    simulate(917, main)


class FullFiles(MemoryFiles):
    """Of a host whose disk is full."""

    def write(self, file: HomeFile, content: bytes) -> None:
        raise StorageFull("no space is left")


def test_on_a_full_disk_it_is_used_all_the_same() -> None:
    async def main() -> None:
        async with asking(9) as here:
            here.grant(*NAMES)
            here.files = FullFiles()
            certificate = here.certificate()
            await certificate.open()
            assert certificate.posture() == []
            assert certificate.context is not None

    simulate(918, main)


def test_the_chain_follows_a_change_of_the_root_and_asks_for_nothing() -> None:
    async def main() -> None:
        async with rotating_world(920, 2) as rotating:
            here = Asking(rotating.world)
            here.grant(*NAMES)
            certificate = here.certificate()
            await certificate.open()
            first, context = here.kept, certificate.context
            async with trio.open_nursery() as nursery:
                nursery.start_soon(certificate.keep)
                await rotating.whole_rotation()
                await until(lambda: certificate.context is not context)
                assert here.kept == first, "the issuer's certificate is another, its own is not"
                newest = here.host.running.trust.now.roots.newest
                parse_issuer(here.chain[1].public_bytes(Encoding.DER), newest)
                assert certificate.posture() == []
                nursery.cancel_scope.cancel()
            here.world.kill(here.issuer)
            with trio.fail_after(0):
                await here.certificate().open()
            assert here.kept == first

    simulate(920, main)


def test_one_that_is_believed_again_is_no_alarm_and_asks_no_more() -> None:
    async def main() -> None:
        async with asking(12, leaf_s=DAY_S) as here:
            here.grant(*NAMES)
            certificate, identity = here.certificate(), here.host.running.identity
            await certificate.open()
            here.world.kill(here.issuer)
            foreign = Authority.create(
                SeededEntropy(1, "foreign").secret, VirtualClock().unix_s(), []
            )
            certificate._identity = lambda: replace(identity, trust=foreign.trust)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(certificate.keep)
                await until(lambda: certificate.posture() != [], timeout_s=LONG_S)
                certificate._identity = lambda: identity
                await until(lambda: certificate.posture() == [], timeout_s=LONG_S)
                await trio.sleep(LONG_S)
                assert certificate.posture() == []
                nursery.cancel_scope.cancel()

    simulate(922, main)


def test_the_issuers_own_host_asks_nobody() -> None:
    async def main() -> None:
        async with asking(10) as here:
            config = PeerConfig(http_names=NAMES)
            assert granted_to(here.issuer.running, config, here.files) is None
            assert granted_to(here.host.running, PeerConfig(), here.files) is None

    simulate(919, main)
