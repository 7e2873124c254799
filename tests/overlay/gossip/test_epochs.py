"""EPOCH objects of several issuers: what one of them signs says nothing of another one's tenant."""

from __future__ import annotations

import msgspec

from overlay.gossip.epochs import Epochs, TakenEpoch
from security.certificate import IssuerKey, make_issuer
from security.epoch import EpochBody
from security.signed import Kind, sign_as_issuer, verify_issuer
from security.trust import Trust
from tests.security.world import NOTHING, NOW_S, member, seeded


def test_a_second_issuer_cannot_shadow_the_name_of_another_ones_tenant() -> None:
    world = member()
    usurper = make_issuer(world.authority.root, seeded(9), NOW_S)
    trust = world.authority.trust.with_issuer(usurper.der)
    honest, shadowed = (Epochs(trust=lambda: trust, keys=world.keys) for _ in range(2))
    forged = of_the_same_name(usurper, world.epoch_object, trust)
    for epochs in (honest, shadowed):
        assert epochs.take(world.epoch_object, 0.0, NOW_S, NOTHING) == TakenEpoch(
            world.tenant.header, epoch=world.tenant
        )
    taken = shadowed.take(forged, 0.0, NOW_S, NOTHING)
    assert taken is not None
    assert taken.header.object_id == world.tenant.header.object_id
    assert shadowed.mine == honest.mine
    newcomer = Epochs(trust=lambda: trust, keys=world.keys)
    newcomer.take(forged, 0.0, NOW_S, NOTHING)
    assert honest.newer_than(newcomer.known()) == [world.epoch_object]
    assert newcomer.lacks(honest.known())
    assert not honest.lacks(honest.known())


def of_the_same_name(usurper: IssuerKey, epoch_object: bytes, trust: Trust) -> bytes:
    """A higher epoch under another issuer's object id, which everybody can read."""
    signed = verify_issuer(epoch_object, Kind.EPOCH, trust)
    body = msgspec.msgpack.decode(signed.value, type=EpochBody)
    forged = msgspec.msgpack.encode(msgspec.structs.replace(body, epoch=9))
    return sign_as_issuer(usurper, Kind.EPOCH, forged)
