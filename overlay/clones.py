"""Other processes with this host's identity: a copied folder, or one restored beside the original.

A process is told of another one by that one's HELLO or signed record; a peer that both connect to
hands the record of the newer one to the older. Rules

1. A generation below ours is history, as any restart leaves it: nothing happens.
2. Another process with a generation not below ours: this one begins a generation above it.
3. The second time that the same process is above ours, within ten minutes, this one ends with
   ``cloned host``. Within its life a process changes its generation only by rule 2, so the other
   one has met us meanwhile: both run. What is left of processes that are gone never does so.

Of two clones exactly one ends. Generations never fall, and each jump goes above what was met. So
they meet by turns: whoever was below at first, by rule 2, is the one that is met above a second
time, and the other one has met it once. While both have the same number both jump, uncounted.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable

import trio

from overlay.errors import LocalFault, ProtocolError
from overlay.generation import is_plausible
from overlay.ports import Clock
from overlay.transport.connection import Connection
from overlay.transport.stream import Stream
from security.errors import SecurityError
from security.peer_id import PeerId
from security.record import open_record
from security.revocation import RevocationSet
from security.trust import Trust

log = logging.getLogger(__name__)

PROTOCOL = "/rhizome/clone/1"
"""One call: the signed record of a newer process with the far side's identity."""

WINDOW_S = 600.0
SEEN_MAX = 64

CLONED = (
    "cloned host: another process runs with this host's identity, as when its folder was copied "
    "or restored beside the original; keep one, and let the other host join again with a new "
    "ticket and a fresh --home"
)


class ClonedHost(LocalFault):
    """Another process with this host's identity runs as well; the message says what to do."""


class Meeting(enum.Enum):
    """What it means to be told of another process."""

    PAST = "its generation is below ours"
    JUMP = "ours must go above it"
    CLONED = "it runs beside us"


class Sightings:
    """Other processes of this identity that were above this one, of the last ten minutes."""

    def __init__(self, boot_salt: bytes) -> None:
        self._mine = boot_salt
        self._seen_s: dict[bytes, float] = {}

    def meet(self, boot_salt: bytes, generation: int, *, ours: int, now_s: float) -> Meeting:
        """Judges what was told of a process; ``ours`` is this one's generation now."""
        if boot_salt == self._mine or generation < ours:
            return Meeting.PAST
        if generation == ours:
            return Meeting.JUMP
        seen_s = self._seen_s.get(boot_salt)
        if seen_s is not None and now_s - seen_s < WINDOW_S:
            return Meeting.CLONED
        return Meeting.JUMP

    def jumped(self, boot_salt: bytes, generation: int, *, ours: int, now_s: float) -> None:
        """This process went from ``ours`` above what was told: that counts as the first time."""
        if generation == ours:
            return
        if len(self._seen_s) >= SEEN_MAX:
            del self._seen_s[min(self._seen_s, key=lambda salt: (self._seen_s[salt], salt))]
        self._seen_s[boot_salt] = now_s


class CloneWatch:
    """Hears of other processes with this host's identity, and does what that means."""

    def __init__(
        self,
        *,
        me: PeerId,
        trust: Callable[[], Trust],
        boot_salt: bytes,
        clock: Clock,
        generation: Callable[[], int],
        jump: Callable[[int], None],
        revocations: Callable[[], RevocationSet],
    ) -> None:
        """Begins with nobody met.

        Args:
            me: This host.
            trust: What a record is checked with, now.
            boot_salt: This process's.
            clock: Of this host.
            generation: This process's at present.
            jump: Begins one above another; it is stored before this returns.
            revocations: What is revoked.
        """
        self._me = me
        self._trust = trust
        self._sightings = Sightings(boot_salt)
        self._clock = clock
        self._generation = generation
        self._jump = jump
        self._revocations = revocations
        self._cloned = trio.Event()

    async def __call__(self, connection: Connection, stream: Stream) -> None:  # noqa: ARG002 - a handler
        """A peer has refused us for a newer process with our identity, and shows its record."""
        now_unix_s = self._clock.unix_s()
        try:
            record = open_record(stream.body, self._trust(), now_unix_s, self._revocations()).value
        except SecurityError as error:
            raise ProtocolError(f"no record of ours: {type(error).__name__}") from None
        if record.peer_id == self._me:
            self.on_met(record.generation, record.boot_salt)
        await stream.send(b"")
        await stream.finish()

    def on_met(self, generation: int, boot_salt: bytes) -> None:
        """Somebody says that a process with our identity runs, or ran, with this generation."""
        now_s, ours = self._clock.now_s(), self._generation()
        match self._sightings.meet(boot_salt, generation, ours=ours, now_s=now_s):
            case Meeting.CLONED:
                self._cloned.set()
            case Meeting.JUMP if is_plausible(generation, self._clock.unix_s()):
                self._jump(generation)
                self._sightings.jumped(boot_salt, generation, ours=ours, now_s=now_s)
            case Meeting.JUMP:
                log.warning("this identity was met with a generation of the far future: revoke it")

    async def run(self) -> None:
        """Waits. Raises ClonedHost when another process with this identity runs as well."""
        await self._cloned.wait()
        raise ClonedHost(CLONED)
