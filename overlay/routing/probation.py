"""Peers that fell silent or broke: kept out, tried with one probe at a time, taken back.

Rules:
1. A failure (silence, a broken answer) makes a peer suspected: no new request goes there.
2. After a pause, and once anything was heard from it since, one request may go there as a probe;
   while it is under way no other may. A host that is stopped gets none.
3. The pause doubles with each failure in a row, from 1 s to 8 s, and a failure counts half after
   30 s without another: so a peer that is back is tried again within 8 s, used within 15.
4. A sign of life after the failure (a new connection, a pong) makes the probe due at once.
5. A probe that succeeds clears the peer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from overlay.routing.candidate import Standing
from security.peer_id import PeerId

PAUSE_FIRST_S = 1.0
PAUSE_MAX_S = 8.0
DOUBLINGS_MAX = 16
"""More change nothing; without a bound a thousand requests that fail at once overflow a float."""

HALF_LIFE_S = 30.0
PROBE_LIFETIME_S = 10.0
"""A probe whose end is never told holds its place this long."""


@dataclass(slots=True)
class _Suspicion:
    failures: float
    failed_s: float
    due_s: float
    probe_since_s: float | None = None


class Probation:
    """This router's suspicions."""

    def __init__(self) -> None:
        self._suspicions: dict[PeerId, _Suspicion] = {}
        self._past: dict[PeerId, tuple[float, float]] = {}

    def standing(self, peer_id: PeerId, now_s: float, heard_s: float = math.inf) -> Standing:
        """How the peer stands now; ``heard_s`` is when it last sent anything at all."""
        suspicion = self._suspicions.get(peer_id)
        if suspicion is None:
            return Standing.CLEAR
        since_s = suspicion.probe_since_s
        if since_s is not None and now_s - since_s < PROBE_LIFETIME_S:
            return Standing.SUSPECTED
        due = now_s >= suspicion.due_s and heard_s > suspicion.failed_s
        return Standing.PROBE_DUE if due else Standing.SUSPECTED

    def suspected(self, peer_id: PeerId) -> bool:
        """True from a failure to the next success."""
        return peer_id in self._suspicions

    def on_failure(self, peer_id: PeerId, now_s: float) -> None:
        """It was silent too long, or broke an answer, or failed its probe."""
        failures = 1.0 + self._failures(peer_id, now_s)
        doublings = min(failures - 1, DOUBLINGS_MAX)
        pause_s = min(PAUSE_MAX_S, PAUSE_FIRST_S * 2**doublings)
        self._suspicions[peer_id] = _Suspicion(failures, now_s, now_s + pause_s)
        self._past[peer_id] = (failures, now_s)

    def on_sent(self, peer_id: PeerId, now_s: float) -> None:
        """A request goes there; if it is suspected, that is the probe."""
        suspicion = self._suspicions.get(peer_id)
        if suspicion is not None:
            suspicion.probe_since_s = now_s

    def on_unfinished(self, peer_id: PeerId) -> None:
        """The probe ended without telling anything (cancelled, refused): another is due."""
        suspicion = self._suspicions.get(peer_id)
        if suspicion is not None:
            suspicion.probe_since_s = None

    def on_success(self, peer_id: PeerId) -> None:
        """It gave a first token or a whole answer."""
        self._suspicions.pop(peer_id, None)

    def on_sign_of_life(self, peer_id: PeerId, now_s: float) -> None:
        """It connected anew or answered a ping, after its failure."""
        suspicion = self._suspicions.get(peer_id)
        if suspicion is not None and now_s > suspicion.failed_s:
            suspicion.due_s = min(suspicion.due_s, now_s)

    def forget(self, peer_id: PeerId) -> None:
        """The peer has left the overlay."""
        self._suspicions.pop(peer_id, None)
        self._past.pop(peer_id, None)

    def _failures(self, peer_id: PeerId, now_s: float) -> float:
        """Failures in a row, each counting half after every :data:`HALF_LIFE_S`."""
        failures, last_s = self._past.get(peer_id, (0.0, now_s))
        return float(failures * 0.5 ** ((now_s - last_s) / HALF_LIFE_S))
