"""Counters and histograms of one peer, in Prometheus' text form. No tenant, no prompt, no names.

A tenant's own requests are counted apart too, for viewers that may see no other.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from overlay.request import Usage
from security.tenant import TenantId

TTFT_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
TENANTS_MAX = 256
"""Tenants that are counted apart; as many as an issuer keeps."""

TOKEN_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class RequestMetrics:
    """Counters and histograms of requests; what is counted here is counted in ``total`` too."""

    def __init__(self, registry: CollectorRegistry, total: RequestMetrics | None = None) -> None:
        self.registry = registry
        self._total = total
        self._requests = self._counter("requests", "Requests by how they ended", "state")
        self._prompt = self._counter("prompt_tokens", "Prompt tokens of answered requests")
        self._cached = self._counter("cached_tokens", "Prompt tokens taken from a cache")
        self._completion = self._counter("completion_tokens", "Tokens answered")
        self._forwards = self._counter("forwards", "Attempts at other peers by result", "result")
        self._fallbacks = self._counter("fallbacks", "Attempts that were left, by cause", "cause")
        self._resumes = self._counter("resumes", "Answers continued after a failure")
        self._ttft = Histogram(
            "rhizome_ttft_seconds",
            "Time from a request's arrival here to its first token",
            buckets=TTFT_BUCKETS_S,
            registry=registry,
        )
        self._per_token = Histogram(
            "rhizome_token_seconds",
            "Mean time per answered token after the first",
            buckets=TOKEN_BUCKETS_S,
            registry=registry,
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"rhizome_{name}", text, labels, registry=self.registry)

    def ended(self, state: str) -> None:
        self._requests.labels(state).inc()
        if self._total is not None:
            self._total.ended(state)

    def fell_back(self, cause: str) -> None:
        self._fallbacks.labels(cause).inc()
        if self._total is not None:
            self._total.fell_back(cause)

    def forwarded(self, result: str) -> None:
        self._forwards.labels(result).inc()
        if self._total is not None:
            self._total.forwarded(result)

    def resumed(self) -> None:
        self._resumes.inc()
        if self._total is not None:
            self._total.resumed()

    def first_token(self, ttft_s: float) -> None:
        self._ttft.observe(ttft_s)
        if self._total is not None:
            self._total.first_token(ttft_s)

    def answered(self, usage: Usage, *, decode_s: float) -> None:
        """Counts an answer; ``decode_s`` is the time after its first token."""
        self._prompt.inc(usage.prompt_tokens)
        self._cached.inc(usage.cached_tokens)
        self._completion.inc(usage.completion_tokens)
        if usage.completion_tokens > 1:
            self._per_token.observe(decode_s / (usage.completion_tokens - 1))
        if self._total is not None:
            self._total.answered(usage, decode_s=decode_s)


class Metrics:
    """What ``/metrics`` shows: everything, or to a tenant what its own requests did."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._total = RequestMetrics(self._registry)
        self._tenants: OrderedDict[TenantId, RequestMetrics] = OrderedDict()

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Shows ``value()`` at every scrape."""
        gauge = Gauge(f"rhizome_{name}", text, registry=self._registry)
        gauge.set_function(value)

    def counts(self, name: str, text: str, values: Callable[[], Mapping[str, int]]) -> None:
        """Shows counters that are kept elsewhere, by result, as they are at every scrape."""
        self._registry.register(_Counts(f"rhizome_{name}", text, values))

    def of(self, tenant: TenantId) -> RequestMetrics:
        """Where a tenant's requests are counted."""
        own = self._tenants.get(tenant)
        if own is None:
            if len(self._tenants) >= TENANTS_MAX:
                self._tenants.popitem(last=False)
            own = self._tenants[tenant] = RequestMetrics(CollectorRegistry(), self._total)
        self._tenants.move_to_end(tenant)
        return own

    def text(self, tenant: TenantId | None = None) -> tuple[str, bytes]:
        """Content type and body of a scrape; of one tenant's requests alone where it is named."""
        registry = self._registry if tenant is None else self.of(tenant).registry
        return CONTENT_TYPE_LATEST, generate_latest(registry)


class _Counts(Collector):
    """Counters kept elsewhere, as one metric with a label ``result``."""

    def __init__(self, name: str, text: str, values: Callable[[], Mapping[str, int]]) -> None:
        self._name = name
        self._text = text
        self._values = values

    def collect(self) -> Iterator[CounterMetricFamily]:
        """What a scrape shows."""
        family = CounterMetricFamily(self._name, self._text, labels=("result",))
        for result, value in self._values().items():
            family.add_metric((result,), value)
        yield family
