"""Whoever would put another root over an overlay, told by a host with a valid key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pytest
import trio

from chaos.entropy import SeededEntropy
from chaos.world import until
from overlay.errors import StreamReset
from overlay.revocation.messages import PROTOCOL as REVOCATIONS
from overlay.revocation.messages import VERSION as REVOCATIONS_VERSION
from overlay.revocation.messages import Tell
from overlay.revocation.messages import encode as encode_revocations
from overlay.transport.frame import ResetCode
from overlay.trust.messages import PROTOCOL, VERSION, Question, encode
from security.certificate import IssuerKey, RootKey, make_issuer, make_next_root, parse_root
from security.revocation import make_revocation
from security.root_bundle import BUNDLE_BYTES_MAX, CHAIN_MAX, SignedBundle, make_bundle
from tests.attacks.adversary import KeyHolder, host_of
from tests.attacks.victim import Victim
from tests.attacks.worlds import honest_overlay, simulated

SECRET = SeededEntropy(7, "roots").secret


def root_of(victim: Victim) -> RootKey:
    """The overlay's root, whose key nobody else should have."""
    authority = victim.world.authority
    assert authority is not None
    assert isinstance(authority.root, RootKey)
    return authority.root


def made(victim: Victim, number: int) -> RootKey:
    """A root that says it is of this overlay."""
    return make_next_root(root_of(victim).overlay_id, number, SECRET, victim.now_unix_s)


async def tell(victim: Victim, own: KeyHolder, bundles: Sequence[bytes]) -> int | None:
    """What becomes of a question that brings these: the code of its reset, None for an answer."""
    question = encode(Question(v=VERSION, marks=b"", issuers=[], roots=list(bundles), cards=[]))
    async with own.connected(victim.honest[0]) as connection:
        try:
            await connection.call(PROTOCOL, question, timeout_s=5)
        except StreamReset as error:
            return error.code
        return None


async def rotate(
    victim: Victim, own: KeyHolder, *, end: bool
) -> tuple[KeyHolder, RootKey, list[bytes]]:
    """The owner changes the root, as far as the overlap or to its end; all have heard of it.

    Gives the adversary as it is after that, the new root and what was told.
    """
    old, new = root_of(victim), made(victim, 2)
    bundles = [make_bundle(2, old, new, drop=False), make_bundle(3, old, new, drop=True)]
    told, issuer = bundles if end else bundles[:1], victim.world.issuer_under(new)
    for some in (told[:1], told):
        for node in victim.nodes:
            node.trust.learn(roots=some, issuers=[issuer])
    trust = own.identity.trust.with_bundles(told).with_issuer(issuer)
    return replace(own, identity=replace(own.identity, issuer=issuer, trust=trust)), new, told


def roots(victim: Victim) -> list[tuple[int, tuple[bytes, ...]]]:
    now = [node.trust.now.roots for node in victim.nodes]
    return [(each.number, each.in_force) for each in now]


@simulated
async def test_control_a_root_bundle_that_both_roots_have_signed() -> None:
    """Whoever carries it: it proves itself, and is told on."""
    async with honest_overlay() as victim:
        own, new = host_of(victim), made(victim, 2)
        assert await tell(victim, own, [make_bundle(2, root_of(victim), new, drop=False)]) is None
        await until(lambda: {number for number, _ in roots(victim)} == {2})


@simulated
async def test_a_root_bundle_of_a_foreign_root() -> None:
    """One that calls itself a root of this overlay, alone and beside the true one."""
    async with honest_overlay() as victim:
        own = host_of(victim)
        rogue, second = made(victim, 2), made(victim, 3)
        before = roots(victim)
        async with victim.unharmed(by=own.peer_id):
            for drop in (False, True):
                forged = make_bundle(3, rogue, second, drop=drop)
                assert await tell(victim, own, [forged]) == ResetCode.PROTOCOL
        assert roots(victim) == before


@simulated
async def test_a_new_root_that_has_not_signed_for_itself() -> None:
    """The signature in the new root's place is the old one's."""
    async with honest_overlay() as victim:
        own, new = host_of(victim), made(victim, 2)
        true = msgspec.msgpack.decode(
            make_bundle(2, root_of(victim), new, drop=True), type=SignedBundle
        )
        first = true.signatures[0]
        forged = msgspec.structs.replace(true, signatures=[first, first])
        before = roots(victim)
        async with victim.unharmed(by=own.peer_id):
            told = await tell(victim, own, [msgspec.msgpack.encode(forged)])
            assert told == ResetCode.PROTOCOL
        assert roots(victim) == before


@simulated
async def test_a_root_that_was_let_go_signs_again() -> None:
    """Its key is stolen after the rotation: it brings back neither itself nor another one."""
    async with honest_overlay() as victim:
        own, _, _ = await rotate(victim, host_of(victim), end=True)
        rogue, before = made(victim, 4), roots(victim)
        async with victim.unharmed(by=own.peer_id):
            for drop in (False, True):
                forged = make_bundle(4, root_of(victim), rogue, drop=drop)
                assert await tell(victim, own, [forged]) == ResetCode.PROTOCOL
        assert roots(victim) == before


@simulated
async def test_a_root_bundle_that_was_true_before() -> None:
    """The overlap is told again after its end."""
    async with honest_overlay() as victim:
        own, new, told = await rotate(victim, host_of(victim), end=True)
        async with victim.unharmed(by=own.peer_id):
            for some in (told[:1], told, told[::-1]):
                assert await tell(victim, own, some) is None
        assert roots(victim) == [(3, (new.der,))] * 2


@simulated
async def test_two_root_bundles_of_one_number() -> None:
    """The old root's key is in two hands: what came first stays everywhere, and the owner hears."""
    async with honest_overlay() as victim:
        rogue = made(victim, 2)
        own, _, _ = await rotate(victim, host_of(victim), end=False)
        before = roots(victim)
        async with victim.unharmed(by=own.peer_id):
            for _ in range(3):
                forged = make_bundle(2, root_of(victim), rogue, drop=False)
                assert await tell(victim, own, [forged]) is None
                await trio.sleep(1)
        assert roots(victim) == before
        assert "two root bundles" in dict(victim.nodes[0].engine_posture())["roots"]


@simulated
async def test_an_issuer_that_signs_a_root_bundle() -> None:
    """With its own key in the place of a root's: its certificate is none of a root."""
    async with honest_overlay() as victim:
        own, new = host_of(victim), made(victim, 2)
        authority = victim.world.authority
        assert authority is not None
        issuer = authority.issuer
        true = msgspec.msgpack.decode(
            make_bundle(2, root_of(victim), new, drop=False), type=SignedBundle
        )
        fields = msgspec.msgpack.decode(true.body)
        before = roots(victim)
        async with victim.unharmed(by=own.peer_id):
            for place in (2, 3):
                body = msgspec.msgpack.encode([*fields[:place], issuer.der, *fields[place + 1 :]])
                message = b"rhizome/roots/v1\0" + true.overlay + b"\x10"
                signed = issuer.private.sign(message + bytes.fromhex(issuer.issuer_id) + body)
                forged = msgspec.structs.replace(true, body=body, signatures=[signed, signed])
                told = await tell(victim, own, [msgspec.msgpack.encode(forged)])
                assert told == ResetCode.PROTOCOL
        assert roots(victim) == before
        assert parse_root(root_of(victim).der).root_id == root_of(victim).overlay_id


@simulated
async def test_root_bundles_that_are_too_large_or_too_many() -> None:
    async with honest_overlay() as victim:
        own, before = host_of(victim), roots(victim)
        async with victim.unharmed(by=own.peer_id):
            for bundles in (
                [bytes(BUNDLE_BYTES_MAX + 1)],
                [b""] * (CHAIN_MAX + 1),
                [bytes(BUNDLE_BYTES_MAX)] * CHAIN_MAX,
            ):
                assert await tell(victim, own, bundles) == ResetCode.PROTOCOL
        assert roots(victim) == before


@simulated
async def test_issuers_and_bundles_that_are_none_without_end() -> None:
    """They are refused one by one, and the connection stays: nothing is kept of them."""
    async with honest_overlay() as victim:
        own, keeper = host_of(victim), victim.nodes[0].trust
        true = [issuer.der for issuer in keeper.now.issuers.values()]
        async with victim.unharmed(by=own.peer_id), own.connected(victim.honest[0]) as connection:
            await until(lambda: len(keeper._knows) == 2, step_s=0.01)
            for number in range(100):
                made_up = [bytes([number, other]) * 2 for other in range(63)]
                question = Question(
                    v=VERSION,
                    marks=b"",
                    issuers=[*true, *made_up],
                    roots=made_up[:CHAIN_MAX],
                    cards=made_up[:CHAIN_MAX],
                )
                with pytest.raises(StreamReset):
                    await connection.call(PROTOCOL, encode(question), timeout_s=5)
            assert connection.closed is None
            assert all(known == keeper.book.marks() for known in keeper._knows.values())


def told_of(issuer: IssuerKey, *ids: str, now_unix_s: float) -> bytes:
    """What an issuer revokes, with its certificate beside it."""
    statements = [make_revocation(issuer, each, now_unix_s) for each in ids]
    return encode_revocations(
        Tell(v=REVOCATIONS_VERSION, issuers=[issuer.der], statements=statements)
    )


@simulated
async def test_a_root_that_was_let_go_has_issuers_that_revoke() -> None:
    """One that it signs after its end, and one that all knew before and nobody certified anew.

    Their statements harm nobody, and are not told on.
    """
    async with honest_overlay() as victim:
        known = make_issuer(root_of(victim), SECRET, victim.now_unix_s)
        for node in victim.nodes:
            node.trust.learn(issuers=[known.der])
        own, _, _ = await rotate(victim, host_of(victim), end=True)
        late = make_issuer(root_of(victim), SECRET, victim.now_unix_s)
        async with victim.unharmed(by=own.peer_id), own.connected(victim.honest[0]) as connection:
            for issuer in (known, late):
                ids = (
                    victim.nodes[1].peer_id,
                    *victim.nodes[0].trust.now.issuers,
                    issuer.issuer_id,
                )
                told = told_of(issuer, *ids, now_unix_s=victim.now_unix_s)
                await connection.call(REVOCATIONS, told, timeout_s=5)
            assert connection.closed is None
        for node in victim.nodes:
            assert not node.keeper.exchange.statements()
            assert not node.keeper.revokes(victim.nodes[1].peer_id)
