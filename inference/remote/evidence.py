"""What the end of a request says about how much of its prompt was in the server's cache.

1. A server that reports ``cached_tokens`` is believed. It counts whole blocks of its own and never
   the prompt's last token, so a little less than expected is as expected.
2. Where none is reported, the time to the first token tells warm from cold, if nothing else ran and
   the difference is worth it; in between it tells nothing.
3. The share of the expected blocks that were there is averaged, for the owner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from inference.events import BlockHash
from inference.remote.cache_picture import Outcome
from inference.request import BLOCK_TOKENS, Namespace

RUNNING_MAX = 10_000
"""Requests that have started and not finished; the oldest are forgotten."""
SHARE_WEIGHT = 0.1
"""Of the newest request in the average."""
TELLING_S = 0.1
"""Below this difference between cold and warm, the time to the first token says nothing."""
WARM_PART, COLD_PART = 0.25, 0.75
"""Of the way from the time expected if all was cached to the time if nothing was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A request that ended; ``found`` is the leading blocks that were cached, None: cannot say."""

    namespace: Namespace
    hashes: tuple[BlockHash, ...]
    expected: int
    found: int | None


class Evidence:
    """Running requests with what was expected of them, and how often it was so.

    ``block_tokens`` is the server's own block size, which may become known later.
    """

    def __init__(self, block_tokens: int = BLOCK_TOKENS) -> None:
        self.block_tokens = block_tokens
        self._running: dict[str, Seen] = {}
        self._share = 1.0
        self._samples = 0

    def started(
        self, request_id: str, namespace: Namespace, hashes: Sequence[BlockHash], expected: int
    ) -> None:
        """A request was sent whose first ``expected`` blocks are believed to be cached."""
        self._running.pop(request_id, None)
        while len(self._running) >= RUNNING_MAX:
            del self._running[next(iter(self._running))]
        self._running[request_id] = Seen(
            namespace=namespace, hashes=tuple(hashes), expected=expected, found=None
        )

    def running(self, request_id: str) -> Seen | None:
        """A request that has not finished."""
        return self._running.get(request_id)

    def finished(self, request_id: str, outcome: Outcome) -> Seen | None:
        """What is known of a request at its end; None where it is not known or gave no answer."""
        running = self._running.pop(request_id, None)
        if running is None or not outcome.answered:
            return None
        found = self._found(running, outcome)
        if found is not None and running.expected:
            share = min(found, running.expected) / running.expected
            self._samples += 1
            weight = max(SHARE_WEIGHT, 1 / self._samples)
            self._share += weight * (share - self._share)
        return replace(running, found=found)

    def void(self) -> None:
        """The server lost its cache: requests that run now say nothing about it."""
        self._running.clear()

    def posture(self) -> list[tuple[str, str]]:
        if not self._samples:
            return [("calibration", "no request has told yet whether the picture is right")]
        share = f"{100 * self._share:.0f} % of the expected blocks were there"
        return [("calibration", f"{share}, {self._samples} requests")]

    def _found(self, running: Seen, outcome: Outcome) -> int | None:
        prompt = outcome.prompt_tokens or len(running.hashes) * BLOCK_TOKENS + 1
        if outcome.cached_tokens is None:
            return _found_by_time(running.expected, prompt, outcome)
        usable = min(running.expected * BLOCK_TOKENS, max(0, prompt - 1))
        if usable - outcome.cached_tokens < max(self.block_tokens, BLOCK_TOKENS):
            return max(running.expected, min(len(running.hashes), _blocks(outcome.cached_tokens)))
        return min(len(running.hashes), _blocks(outcome.cached_tokens))


def _blocks(tokens: int) -> int:
    return max(0, tokens) // BLOCK_TOKENS


def _found_by_time(expected: int, prompt_tokens: int, outcome: Outcome) -> int | None:
    """All that was expected, nothing, or None where the time does not tell."""
    rate, first_token_s = outcome.prefill_tokens_per_s, outcome.first_token_s
    if not outcome.alone or first_token_s is None or rate <= 0 or not expected:
        return None
    spared_s = min(expected * BLOCK_TOKENS, prompt_tokens) / rate
    if spared_s < TELLING_S:
        return None
    warm_s = prompt_tokens / rate - spared_s
    if first_token_s <= warm_s + WARM_PART * spared_s:
        return expected
    return 0 if first_token_s >= warm_s + COLD_PART * spared_s else None
