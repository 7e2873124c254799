"""EPOCH objects as gossip carries them, and the tenants among them that this host can read."""

from __future__ import annotations

from collections.abc import Iterator
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


@dataclass(slots=True)
class Epochs:
    """The newest EPOCH object of every tenant, read or unread."""

    trust: Trust
    keys: HostKeys
    mine: dict[TenantId, TenantEpoch] = field(default_factory=dict)
    _carried: dict[tuple[str, bytes], tuple[EpochHeader, bytes]] = field(default_factory=dict)

    def take(
        self, data: bytes, now_unix_s: float, revocations: RevocationSet
    ) -> tuple[EpochHeader, TenantEpoch | None] | None:
        """Takes an object in that is newer than what is known.

        Returns:
            Its header, and the tenant where this host is a member; None where it is old or bad.
        """
        if any(data == carried for _, carried in self._carried.values()):
            return None
        try:
            header = read_epoch(data, self.trust, now_unix_s, revocations).value
            place = (str(header.steward), header.object_id)
            before = self._carried.get(place)
            if before is not None and not header.supersedes(before[0]):
                return None
            if before is None and len(self._carried) >= EPOCHS_MAX:
                return None
            opened = open_epoch(data, self.trust, self.keys, now_unix_s, revocations)
        except SecurityError:
            return None
        self._carried[place] = (header, data)
        if opened is None:
            self.mine = {
                tenant: epoch
                for tenant, epoch in self.mine.items()
                if not header.supersedes(epoch.header)
            }
            return header, None
        self.mine[opened.value.tenant_id] = opened.value
        return header, opened.value

    def known(self) -> list[KnownEpoch]:
        """How far this host knows every tenant, by opaque names."""
        return [
            KnownEpoch(header.object_id, header.epoch, header.version)
            for _, (header, _) in sorted(self._carried.items())
        ]

    def newer_than(self, theirs: list[KnownEpoch]) -> list[bytes]:
        """Objects that somebody who knows ``theirs`` lacks."""
        have = {known.object_id: (known.epoch, known.version) for known in theirs}
        return [
            data
            for _, (header, data) in sorted(self._carried.items())
            if (header.epoch, header.version) > have.get(header.object_id, (0, 0))
        ]

    def lacks(self, theirs: list[KnownEpoch]) -> bool:
        """Whether somebody who knows ``theirs`` has an object that is newer or new."""
        have = {known.object_id: (known.epoch, known.version) for known in self.known()}
        return any(
            (known.epoch, known.version) > have.get(known.object_id, (0, 0)) for known in theirs
        )

    def of_origin(self, origin: PeerId) -> Iterator[TenantEpoch]:
        """Tenants of ours whose roster names that peer."""
        return (epoch for _, epoch in sorted(self.mine.items()) if origin in epoch.members)
