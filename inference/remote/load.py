"""How busy a remote engine is: our own requests by our own clock, the rest by its metrics.

Its owner and others may use the server too, so what it says of itself counts where it says more
than we know. Rates are measured here, on requests of which it is known what they took: the prefill
rate on one that was alone until its first token, the time per token on whole streams.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from prometheus_client.parser import text_string_to_metric_families

from inference.remote.kinds import MetricNames
from inference.request import BLOCK_TOKENS, EngineLoad, EngineUsage

WEIGHT = 0.25
"""Of the newest measurement in an average: four requests count about as much as all before."""

PREFILL_TOKENS_MIN = 64
"""Fewer tokens take no time that could be told from everything else that a request takes."""

DECODE_TOKENS_MIN = 4
COUNT_MAX = 1 << 20
START_TIME = "process_start_time_seconds"
METRICS_LINES_MAX = 1 << 16

TEXT_SHARE = 0.8
"""How near a count of tokens is to one of text units, in a part of a prompt and in all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerMetrics:
    """What a server says of itself. None: it does not tell."""

    running: int | None = None
    waiting: int | None = None
    cache_usage: float | None = None
    block_tokens: int | None = None
    total_blocks: int | None = None
    started_s: float | None = None

    @property
    def cache_blocks(self) -> int:
        """The cache's size in blocks of the overlay; 0 where the server does not tell."""
        if not self.total_blocks or not self.block_tokens:
            return 0
        return self.total_blocks * self.block_tokens // BLOCK_TOKENS


def read_metrics(text: str, names: MetricNames) -> ServerMetrics:
    """What is of use in a ``/metrics`` page; what makes no sense is as if it was not there."""
    found: dict[str, float] = {}
    labels: dict[str, str] = {}
    for name, given, value in _samples(text, names):
        # Several ranks or models of one server add up, except for what is a share or a time.
        adds = name in {names.running, names.waiting}
        found[name] = found[name] + value if adds and name in found else value
        if name == names.cache_info:
            labels = given
    usage = found.get(names.cache_usage) if names.cache_usage else None
    return ServerMetrics(
        running=_count(found.get(names.running)),
        waiting=_count(found.get(names.waiting)),
        cache_usage=usage if usage is not None and 0 <= usage <= 1 else None,
        block_tokens=_number(labels.get("block_size")),
        total_blocks=_number(labels.get("num_gpu_blocks")),
        started_s=_time(found.get(START_TIME)),
    )


def _samples(text: str, names: MetricNames) -> Iterator[tuple[str, dict[str, str], float]]:
    """Only the lines that matter are parsed: a page has thousands, and comes every second."""
    wanted = tuple(
        name
        for name in (names.running, names.waiting, names.cache_usage, names.cache_info, START_TIME)
        if name is not None
    )
    for line in text.splitlines()[:METRICS_LINES_MAX]:
        if not line.startswith(wanted):
            continue
        try:
            families = list(text_string_to_metric_families(line + "\n"))
        except (ValueError, KeyError, IndexError):
            continue
        for family in families:
            for sample in family.samples:
                if sample.name in wanted:
                    yield sample.name, dict(sample.labels), sample.value


def _count(value: float | None) -> int | None:
    # The comparison is false for what is no number.
    return int(value) if value is not None and 0 <= value <= COUNT_MAX else None


def _time(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _number(text: str | None) -> int | None:
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 12:
        return None
    return int(text) or None


@dataclass(slots=True, kw_only=True)
class Flight:
    """A request in flight. ``uncached`` are its prompt tokens that are not expected cached."""

    tokens: int
    uncached: int
    sent_s: float
    first_s: float | None = None
    last_s: float = 0.0
    alone: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a request that ended has shown."""

    first_token_s: float | None
    alone: bool


@dataclass(slots=True)
class LoadMeter:
    """Requests in flight and measured rates of one server.

    ``slots`` is how many requests it serves at once.
    """

    slots: int = 1
    prefill_tokens_per_s: float = 0.0
    decode_s_per_token: float = 0.0
    metrics: ServerMetrics = field(default_factory=ServerMetrics)
    _flights: dict[str, Flight] = field(default_factory=dict)
    _strangers: int = 0

    @property
    def in_flight(self) -> int:
        """How many requests of ours it has."""
        return len(self._flights)

    @property
    def busy(self) -> bool:
        """Whether it works for anybody, as far as is known."""
        return bool(self._flights or self._strangers)

    @property
    def last_s(self) -> float:
        """When something was last sent to it or came from it, for the requests in flight."""
        return max((max(f.sent_s, f.last_s) for f in self._flights.values()), default=0.0)

    def sent(self, request_id: str, *, tokens: int, cached: int, now_s: float) -> None:
        """A request goes to the server; both are numbers of prompt tokens."""
        for flight in self._flights.values():
            if flight.first_s is None:
                flight.alone = False
        self._flights[request_id] = Flight(
            tokens=tokens,
            uncached=max(0, tokens - cached),
            sent_s=now_s,
            alone=not self._flights and not self._strangers,
        )

    def came(self, request_id: str, *, started: bool, now_s: float) -> bool:
        """Something came; whether it shows for the first time that the prompt is computed."""
        flight = self._flights.get(request_id)
        if flight is None:
            return False
        flight.last_s = now_s
        if not started or flight.first_s is not None:
            return False
        flight.first_s = now_s
        return True

    def ended(self, request_id: str, usage: EngineUsage | None, *, streamed: bool) -> Measured:
        """A request is over; takes in what it shows. ``usage`` is None where it broke off."""
        flight = self._flights.pop(request_id, None)
        if flight is None:
            return Measured(first_token_s=None, alone=False)
        first_s = None if flight.first_s is None else flight.first_s - flight.sent_s
        if usage is not None and streamed and flight.first_s is not None and first_s is not None:
            self._take_decode(flight.last_s - flight.first_s, usage.completion_tokens - 1)
            if flight.alone:
                self._take_prefill(flight, usage, first_s)
        return Measured(first_token_s=first_s if streamed else None, alone=flight.alone)

    def saw(self, metrics: ServerMetrics) -> None:
        """Takes in what the server says; others than us make a request not alone."""
        self.metrics = metrics
        theirs = (metrics.running or 0) + (metrics.waiting or 0)
        self._strangers = max(0, theirs - len(self._flights))
        for flight in self._flights.values():
            if self._strangers and flight.first_s is None:
                flight.alone = False

    def forget(self) -> None:
        """The server is gone; what was measured may hold for the next one."""
        self._flights.clear()
        self.metrics = ServerMetrics()
        self._strangers = 0

    def load(self) -> EngineLoad:
        """How busy it is."""
        requests = len(self._flights) + self._strangers
        slots = max(self.slots, self.metrics.running or 0)
        queued = max(requests - slots, min(requests, self.metrics.waiting or 0))
        total = self.metrics.cache_blocks
        usage = self.metrics.cache_usage or 0.0
        return EngineLoad(
            running=requests - queued,
            queued=queued,
            queued_tokens=sum(f.uncached for f in self._flights.values() if f.first_s is None),
            prefill_tokens_per_s=self.prefill_tokens_per_s,
            decode_s_per_token=self.decode_s_per_token,
            used_blocks=round(usage * total),
            total_blocks=total,
        )

    def _take_prefill(self, flight: Flight, usage: EngineUsage, first_s: float) -> None:
        """In the units of the prompt as it is hashed, which is what will be multiplied with it."""
        uncached: float = flight.uncached
        if usage.cached_tokens is not None and usage.prompt_tokens:
            uncached = flight.tokens * (1 - usage.cached_tokens / usage.prompt_tokens)
        elif flight.uncached < flight.tokens:
            return  # expected to be cached, which nobody confirms
        if uncached >= PREFILL_TOKENS_MIN and first_s > 0:
            self.prefill_tokens_per_s = _mixed(self.prefill_tokens_per_s, uncached / first_s)

    def _take_decode(self, took_s: float, tokens: int) -> None:
        if tokens >= DECODE_TOKENS_MIN and took_s > 0:
            self.decode_s_per_token = _mixed(self.decode_s_per_token, took_s / tokens)


def in_units(usage: EngineUsage, *, units: int, expected: int) -> EngineUsage:
    """A server's count in the units that the prompt was hashed by, where these are of text.

    A unit of text is no token but about one, so a share near the expected one is the expected one.

    Args:
        usage: As the server counts.
        units: The prompt's.
        expected: Blocks that were thought to be cached.
    """
    if usage.cached_tokens is None or not usage.prompt_tokens:
        return replace(usage, prompt_tokens=units)
    cached = units * usage.cached_tokens // usage.prompt_tokens
    if cached >= TEXT_SHARE * expected * BLOCK_TOKENS:
        cached = max(cached, expected * BLOCK_TOKENS)
    return replace(usage, prompt_tokens=units, cached_tokens=min(units, cached))


def _mixed(old: float, new: float) -> float:
    return new if old == 0 else old + WEIGHT * (new - old)
