"""How long an answer will be: a moving average by tenant and model, capped by ``max_tokens``."""

from __future__ import annotations

from collections import OrderedDict

from security.tenant import TenantId

UNKNOWN_TOKENS = 128.0
"""Expected answer of a tenant and model that has given none yet (chat traces: 100 to 350)."""

WEIGHT = 0.1
"""Weight of the newest answer: the last 20 or so count."""

KEPT_MAX = 4096
"""Pairs of tenant and model remembered, the last used ones."""


class ExpectedOutput:
    """Moving averages of answer lengths."""

    def __init__(self) -> None:
        self._mean: OrderedDict[tuple[TenantId, str], float] = OrderedDict()

    def observe(self, tenant: TenantId, model: str, completion_tokens: int) -> None:
        """An answer of that many tokens was finished."""
        key = (tenant, model)
        mean = self._mean.pop(key, float(completion_tokens))
        self._mean[key] = mean + WEIGHT * (completion_tokens - mean)
        if len(self._mean) > KEPT_MAX:
            self._mean.popitem(last=False)

    def expect(self, tenant: TenantId, model: str, max_tokens: int | None) -> float:
        """Tokens that the next answer is expected to have."""
        mean = self._mean.get((tenant, model), UNKNOWN_TOKENS)
        return mean if max_tokens is None else min(mean, float(max_tokens))
