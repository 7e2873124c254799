"""What this router has measured of each peer, and how far a peer's own word counts beside it.

Rules:
1. A peer's claim can only make it less attractive than what was measured of it, or, before that,
   than the fastest peer that was measured (the prior; the fastest claim while nothing was measured,
   so that a peer that says nothing is no better than those that do).
2. A measurement fades towards the prior, halved every two minutes, so that a peer that was slow
   once is tried again some day.
3. A claim counts less as it gets older untested: one that was never told anew, of a peer that
   answered nothing of ours, lets twice as fast a rate pass every two minutes. So a peer that was
   slow only while it measured itself is tried again; a slow one gets one request in a long while.
4. A prefill rate is taken from a request that met an idle peer; with others in front the same
   figure is a lower bound and counts only upwards.
5. Trust is the share of promised cached tokens that were delivered, judged by the time to the first
   token, never by the peer's word alone: a liar also lies in ``cached_tokens``. A peer that is as
   fast as it claims is harmless.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from overlay.routing.candidate import freshness
from security.peer_id import PeerId

PREFILL_DEFAULT_TOKENS_PER_S = 1000.0
DECODE_DEFAULT_S_PER_TOKEN = 0.02
RTT_DEFAULT_S = 0.002
"""Used while nothing at all is measured or claimed: a small model on a CPU, on a LAN."""

WEIGHT = 0.2
"""Weight of the newest sample."""

FADE_HALF_LIFE_S = 120.0
CLAIM_DOUBLES_S = 120.0
CLAIM_DOUBLINGS_MAX = 30.0
WAIT_HALF_LIFE_S = 3.0
"""A wait that was seen at one peer says little about that peer after a few requests' time."""

LOAD_HALF_LIFE_REQUESTS = 2.0
MEAN_DEFAULT_S = 1.0
"""Mean time of a request while none has been seen."""

SHORTEST_S = 1e-6

SAMPLE_TOKENS_MIN = 64
"""Fewer tokens than this say more about overhead than about a rate or a promise."""

SLACK_SHARE = 0.25
"""A promise counts as kept when the first token came as if up to this share of it was computed, and
as broken when it came as if all of it was."""


@dataclass(slots=True)
class _Average:
    """A moving average; the first sample counts in full."""

    value: float = 0.0
    at_s: float = 0.0
    samples: int = 0

    def add(self, sample: float, now_s: float) -> None:
        self.samples += 1
        self.value += max(WEIGHT, 1 / self.samples) * (sample - self.value)
        self.at_s = now_s

    def faded(self, prior: float, now_s: float, half_life_s: float) -> float:
        """The value, drawn towards ``prior`` by its age; the prior alone where there is none."""
        if not self.samples:
            return prior
        return prior + (self.value - prior) * freshness(now_s - self.at_s, half_life_s)


@dataclass(slots=True)
class _Peer:
    rtt_s: float | None = None
    prefill: _Average = field(default_factory=_Average)
    decode: _Average = field(default_factory=_Average)
    wait: _Average = field(default_factory=_Average)
    told_wait: tuple[float, float] | None = None
    """Seconds until it would start, as it said itself, and when it did."""

    trust: float = 1.0
    claimed_prefill: float = 0.0
    claimed_decode: float = 0.0
    claim_tested_s: float | None = None
    """When its claim was told anew, or a request of ours was answered; None before any claim."""

    def claim_factor(self, now_s: float) -> float:
        """How much faster than its claim it may be by now; 1 for a new claim."""
        if self.claim_tested_s is None:
            return 1.0
        doublings = max(0.0, now_s - self.claim_tested_s) / CLAIM_DOUBLES_S
        return float(2.0 ** min(doublings, CLAIM_DOUBLINGS_MAX))


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstToken:
    """What was seen when a request's first token came.

    Args:
        elapsed_s: From sending the request to its first token.
        start_s: When the peer said it would start, after receiving it (ACCEPT); 0 for at once.
        prompt_tokens: Length of the prompt.
        promised_tokens: Tokens that its digest said it holds, times the freshness of that.
        reported_tokens: Tokens that it says it took from its cache.
        found_idle: No request was known to be there when it was sent.
    """

    elapsed_s: float
    start_s: float
    prompt_tokens: int
    promised_tokens: float
    reported_tokens: int
    found_idle: bool


class Measured:
    """This router's own measurements, by peer; its own host is one of them."""

    def __init__(self) -> None:
        self._peers: dict[PeerId, _Peer] = {}
        self._fastest_prefill: float | None = None
        self._fastest_decode: float | None = None
        self._claimed_prefill = PREFILL_DEFAULT_TOKENS_PER_S
        self._claimed_decode = DECODE_DEFAULT_S_PER_TOKEN
        self._wait = _Average()
        self._prefill_s = _Average()
        self._decode_s = _Average()

    def on_rtt(self, peer_id: PeerId, rtt_s: float) -> None:
        """A round trip was measured."""
        peer = self._peer(peer_id)
        peer.rtt_s = rtt_s if peer.rtt_s is None else peer.rtt_s + WEIGHT * (rtt_s - peer.rtt_s)

    def on_claim(
        self, peer_id: PeerId, prefill_tokens_per_s: float, decode_s_per_token: float, now_s: float
    ) -> None:
        """A peer tells its own rates; 0 where it knows none."""
        peer = self._peer(peer_id)
        if (peer.claimed_prefill, peer.claimed_decode) == (
            prefill_tokens_per_s,
            decode_s_per_token,
        ):
            return
        peer.claimed_prefill, peer.claimed_decode = prefill_tokens_per_s, decode_s_per_token
        peer.claim_tested_s = now_s
        self._find_claimed()

    def on_first_token(self, peer_id: PeerId, seen: FirstToken, now_s: float) -> None:
        """A request's first token came: learns the prefill rate, the wait and the trust."""
        peer = self._peer(peer_id)
        if peer.claim_tested_s is not None:
            peer.claim_tested_s = max(peer.claim_tested_s, now_s)
        working_s = max(SHORTEST_S, seen.elapsed_s - (peer.rtt_s or 0.0))
        computed = max(1, seen.prompt_tokens - seen.reported_tokens)
        self._learn_trust(peer, seen, working_s)
        if peer.prefill.samples:
            prefill_s = computed / peer.prefill.value
            self._prefill_s.add(prefill_s, now_s)
            # What it said of its start counts up to the time that really passed.
            wait_s = min(working_s, max(seen.start_s, working_s - prefill_s, 0.0))
            peer.wait.add(wait_s, now_s)
            self._wait.add(wait_s, now_s)
        rate = computed / working_s
        first = not peer.prefill.samples
        if computed >= SAMPLE_TOKENS_MIN and (
            first or seen.found_idle or rate > peer.prefill.value
        ):
            peer.prefill.add(rate, now_s)
            self._find_fastest_prefill()

    def on_late(
        self,
        peer_id: PeerId,
        *,
        start_s: float,
        promised_tokens: float,
        reported_tokens: int,
        now_s: float,
    ) -> None:
        """It said on accepting that it would be late, and lost the request for it.

        Its word is believed, since it is against itself.
        """
        peer = self._peer(peer_id)
        peer.told_wait = (start_s, now_s)
        if promised_tokens >= SAMPLE_TOKENS_MIN:
            kept = min(1.0, reported_tokens / promised_tokens)
            peer.trust += WEIGHT * (kept - peer.trust)

    def on_decoded(self, peer_id: PeerId, tokens: int, elapsed_s: float, now_s: float) -> None:
        """``tokens`` further tokens came within ``elapsed_s`` of the first one."""
        self._decode_s.add(elapsed_s, now_s)
        if tokens >= 1:
            self._peer(peer_id).decode.add(elapsed_s / tokens, now_s)
            self._find_fastest_decode()

    def rtt_s(self, peer_id: PeerId) -> float:
        """The peer's round trip."""
        measured = self._peer(peer_id).rtt_s
        return RTT_DEFAULT_S if measured is None else measured

    def prefill_tokens_per_s(self, peer_id: PeerId, claimed: float, now_s: float) -> float:
        """Its prefill rate; ``claimed`` is its own word, 0 when it gives none."""
        peer = self._peer(peer_id)
        fastest = self._fastest_prefill or self._claimed_prefill
        bound = claimed * peer.claim_factor(now_s) if claimed > 0 else math.inf
        return min(peer.prefill.faded(min(bound, fastest), now_s, FADE_HALF_LIFE_S), bound)

    def decode_s_per_token(self, peer_id: PeerId, claimed: float, now_s: float) -> float:
        """Its time for an output token; ``claimed`` is its own word, 0 when it gives none."""
        peer = self._peer(peer_id)
        fastest = self._fastest_decode or self._claimed_decode
        bound = claimed / peer.claim_factor(now_s)
        return max(peer.decode.faded(max(bound, fastest), now_s, FADE_HALF_LIFE_S), bound)

    def trust(self, peer_id: PeerId) -> float:
        """Share of its promises, 0 to 1, that it keeps."""
        return self._peer(peer_id).trust

    def told_wait_s(self, peer_id: PeerId, hinted_s: float, now_s: float) -> float:
        """What is left of the wait that it told of; 0 where its load hint, of then, is newer."""
        told = self._peer(peer_id).told_wait
        if told is None or hinted_s >= told[1]:
            return 0.0
        return max(0.0, told[0] - (now_s - told[1]))

    def observed_wait_s(self, peer_id: PeerId, now_s: float) -> float:
        """The wait that our requests met there of late; with time, that which they met anywhere."""
        return self._peer(peer_id).wait.faded(self._wait.value, now_s, WAIT_HALF_LIFE_S)

    def load_freshness(self, age_s: float) -> float:
        """How far a load hint of that age still tells a peer's load, 0 to 1.

        A queue changes in the time that its requests take, so the half-life is in units of the
        mean time of a request without waiting.
        """
        mean_s = self._prefill_s.value + self._decode_s.value or MEAN_DEFAULT_S
        return freshness(age_s, LOAD_HALF_LIFE_REQUESTS * mean_s)

    def forget(self, peer_id: PeerId) -> None:
        """The peer has left the overlay; one that only reconnects keeps its record."""
        if self._peers.pop(peer_id, None) is not None:
            self._find_claimed()
            self._find_fastest_prefill()
            self._find_fastest_decode()

    def _find_claimed(self) -> None:
        peers = self._peers.values()
        self._claimed_prefill = (
            max((each.claimed_prefill for each in peers), default=0.0)
            or PREFILL_DEFAULT_TOKENS_PER_S
        )
        times = [each.claimed_decode for each in peers if each.claimed_decode > 0]
        self._claimed_decode = min(times, default=DECODE_DEFAULT_S_PER_TOKEN)

    def _find_fastest_prefill(self) -> None:
        rates = [each.prefill.value for each in self._peers.values() if each.prefill.samples]
        self._fastest_prefill = max(rates, default=None)

    def _find_fastest_decode(self) -> None:
        times = [each.decode.value for each in self._peers.values() if each.decode.samples]
        self._fastest_decode = min(times, default=None)

    def _learn_trust(self, peer: _Peer, seen: FirstToken, working_s: float) -> None:
        if seen.promised_tokens < SAMPLE_TOKENS_MIN:
            return
        kept = min(1.0, seen.reported_tokens / seen.promised_tokens)
        # One that says of everything that it was cached is never measured: then its own word about
        # its speed must do, or the fastest of the others.
        rate = peer.prefill.value or peer.claimed_prefill or self._fastest_prefill
        if rate:
            computed = max(0.0, working_s - seen.start_s) * rate
            spared = max(0.0, seen.prompt_tokens - computed)
            kept = min(kept, spared / ((1 - SLACK_SHARE) * seen.promised_tokens))
        peer.trust += WEIGHT * (kept - peer.trust)

    def _peer(self, peer_id: PeerId) -> _Peer:
        peer = self._peers.get(peer_id)
        if peer is None:
            peer = self._peers[peer_id] = _Peer()
        return peer
