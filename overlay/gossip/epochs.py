"""EPOCH objects as gossip carries them, and the tenants among them that this host can read.

When a tenant's epoch changes, others go on under the old one until they have learnt of it: for
:data:`GRACE_S` by this host's own clock, from when it learnt the new one, the old keys read what
comes of hosts that are on both rosters. Of who is left out nothing counts from the first moment.
After a hard rotation the old blocks are void, and there is no such time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from overlay.gossip.messages import KnownEpoch
from security.epoch import EpochHeader, TenantEpoch, open_epoch, read_epoch
from security.errors import SecurityError
from security.keys import HostKeys
from security.peer_id import PeerId
from security.revocation import RevocationSet
from security.tenant import TenantId
from security.trust import Trust

EPOCHS_MAX = 1024
GRACE_S = 60.0
"""How long the epoch before the present one is read."""


@dataclass(frozen=True, slots=True)
class TakenEpoch:
    """An EPOCH object that was newer than what was known.

    ``epoch`` is the tenant where this host is a member, ``lost`` the one that it was of before.
    """

    header: EpochHeader
    epoch: TenantEpoch | None = None
    lost: TenantId | None = None


@dataclass(slots=True)
class Epochs:
    """The newest EPOCH object of every tenant, read or unread.

    ``trust`` is what is believed now; ``mine`` are this host's tenants, ``before`` what their
    epochs were until a short time ago. ``heard`` is set once somebody has told which ones it knows,
    and what it knew more is here.
    """

    trust: Callable[[], Trust]
    keys: HostKeys
    mine: dict[TenantId, TenantEpoch] = field(default_factory=dict)
    before: dict[TenantId, TenantEpoch] = field(default_factory=dict)
    heard: bool = False
    _until_s: dict[TenantId, float] = field(default_factory=dict)
    _carried: dict[bytes, tuple[EpochHeader, bytes]] = field(default_factory=dict)
    """By :func:`place_of`."""

    def take(
        self, data: bytes, now_s: float, now_unix_s: float, revocations: RevocationSet
    ) -> TakenEpoch | None:
        """Takes an object in that is newer than what is known.

        Returns:
            What it means for this host; None where it is old or bad.
        """
        if any(data == carried for _, carried in self._carried.values()):
            return None
        try:
            header = read_epoch(data, self.trust(), now_unix_s, revocations).value
            place = place_of(header)
            before = self._carried.get(place)
            if before is not None and not header.supersedes(before[0]):
                return None
            if before is None and len(self._carried) >= EPOCHS_MAX:
                return None
            opened = open_epoch(data, self.trust(), self.keys, now_unix_s, revocations)
        except SecurityError:
            return None
        self._carried[place] = (header, data)
        if opened is None:
            lost = next((t for t, e in self.mine.items() if header.supersedes(e.header)), None)
            if lost is not None:
                del self.mine[lost]
                self._let_go(lost)
            return TakenEpoch(header, lost=lost)
        self._turn(opened.value, now_s)
        return TakenEpoch(header, epoch=opened.value)

    def _turn(self, epoch: TenantEpoch, now_s: float) -> None:
        tenant_id, before = epoch.tenant_id, self.mine.get(epoch.tenant_id)
        self.mine[tenant_id] = epoch
        if before is None or before.epoch == epoch.epoch:
            return
        self._let_go(tenant_id)
        if before.keys.chain_key == epoch.keys.chain_key:
            self.before[tenant_id], self._until_s[tenant_id] = before, now_s + GRACE_S

    def _let_go(self, tenant_id: TenantId) -> None:
        self.before.pop(tenant_id, None)
        self._until_s.pop(tenant_id, None)

    def expire(self, now_s: float) -> bool:
        """Lets go the epochs whose time is over; True where there was one."""
        over = [tenant_id for tenant_id, until_s in self._until_s.items() if now_s >= until_s]
        for tenant_id in over:
            self._let_go(tenant_id)
        return bool(over)

    def objects(self) -> list[tuple[EpochHeader, bytes]]:
        """The newest object of every tenant, with its header."""
        return [carried for _, carried in sorted(self._carried.items())]

    def forget_revoked(self, revocations: RevocationSet) -> list[TakenEpoch]:
        """Forgets the objects of stewards that are revoked: their rosters are believed no more.

        Returns:
            What was forgotten; ``lost`` names the tenants that this host was a member of.
        """
        forgotten = []
        for place, (header, _) in sorted(self._carried.items()):
            if not revocations.revokes(header.steward):
                continue
            del self._carried[place]
            lost = next((t for t, e in self.mine.items() if place_of(e.header) == place), None)
            if lost is not None:
                del self.mine[lost]
                self._let_go(lost)
            forgotten.append(TakenEpoch(header, lost=lost))
        return forgotten

    def known(self) -> list[KnownEpoch]:
        """How far this host knows every tenant, by opaque names."""
        return [
            KnownEpoch(
                bytes.fromhex(header.steward), header.object_id, header.epoch, header.version
            )
            for _, (header, _) in sorted(self._carried.items())
        ]

    def newer_than(self, theirs: list[KnownEpoch]) -> list[bytes]:
        """Objects that somebody who knows ``theirs`` lacks."""
        have = _numbers(theirs)
        return [
            data
            for place, (header, data) in sorted(self._carried.items())
            if (header.epoch, header.version) > have.get(place, (0, 0))
        ]

    def lacks(self, theirs: list[KnownEpoch]) -> bool:
        """Whether somebody who knows ``theirs`` has an object that is newer or new."""
        have = {place: (h.epoch, h.version) for place, (h, _) in self._carried.items()}
        return any(numbers > have.get(place, (0, 0)) for place, numbers in _numbers(theirs).items())

    def hear(self, theirs: list[KnownEpoch]) -> None:
        """Somebody knows these."""
        self.heard = self.heard or not self.lacks(theirs)

    def names(self, origin: PeerId) -> bool:
        """Whether the roster of a tenant of ours names that peer."""
        return any(origin in epoch.members for epoch in self.mine.values())

    def of_origin(self, origin: PeerId) -> Iterator[TenantEpoch]:
        """Tenants of ours whose roster names that peer."""
        return (epoch for _, epoch in sorted(self.mine.items()) if origin in epoch.members)

    def before_of_origin(self, origin: PeerId) -> Iterator[TenantEpoch]:
        """What their epochs were, where that peer is on both rosters."""
        return (
            epoch
            for tenant_id, epoch in sorted(self.before.items())
            if origin in epoch.members and origin in self.mine[tenant_id].members
        )


def place_of(header: EpochHeader) -> bytes:
    """What an EPOCH object is kept under: an object id alone could be another issuer's choice."""
    return bytes.fromhex(header.steward) + header.object_id


def _numbers(known: list[KnownEpoch]) -> dict[bytes, tuple[int, int]]:
    return {one.steward + one.object_id: (one.epoch, one.version) for one in known}
