"""How fast an engine is, from the time its steps took.

A step computes prompt tokens, one token of each answer, or both. An answer waits for whole steps,
so its time per token is that of all steps that decoded. A prompt's own rate is what a step with a
prompt takes beyond one without; what a prompt gets at present also waits for the answers beside it.
"""

from __future__ import annotations

RATE_MEMORY = 0.9
"""Weight of the past in a rate, per step: about the last ten steps count."""

CHUNK_TOKENS_MIN = 64
"""Prompt tokens from which a step tells a rate; in a smaller one the fixed part of a step is most.
Such a step counts only while nothing better is known."""


class Rate:
    """A recent average of ``amount`` per second, weighted by amount."""

    def __init__(self) -> None:
        self._amount = 0.0
        self._seconds = 0.0

    def add(self, amount: float, seconds: float) -> None:
        self._amount = RATE_MEMORY * self._amount + amount
        self._seconds = RATE_MEMORY * self._seconds + seconds

    @property
    def per_s(self) -> float:
        """0 while nothing has been measured."""
        return self._amount / self._seconds if self._seconds > 0 else 0.0

    @property
    def s_each(self) -> float:
        """Seconds for an amount of one; 0 while nothing has been measured."""
        return self._seconds / self._amount if self._amount > 0 else 0.0


class StepRates:
    """The rates of an engine whose steps prefill up to ``chunk_tokens`` and decode beside it."""

    def __init__(self, chunk_tokens: int) -> None:
        self._chunk_tokens = chunk_tokens
        self._prefill = Rate()
        self._decode = Rate()
        self._decode_alone = Rate()
        self._decoding = False

    def measured(self, *, prefill_tokens: int, decoding: int, seconds: float) -> None:
        """A step has computed so many prompt tokens and a token of so many answers."""
        self._decoding = decoding > 0
        if decoding:
            # Each request waits a whole step for its token, however many are in the batch.
            self._decode.add(1, seconds)
        if decoding and not prefill_tokens:
            self._decode_alone.add(1, seconds)
        if prefill_tokens >= CHUNK_TOKENS_MIN or (prefill_tokens and not self._prefill.per_s):
            beside = self._decode_alone.s_each if decoding else 0.0
            # Never less than the prompt's share of the rows: the other estimate may be old.
            least = seconds * prefill_tokens / (prefill_tokens + decoding) / 2
            self._prefill.add(prefill_tokens, max(seconds - beside, least))

    @property
    def prefill_tokens_per_s(self) -> float:
        """What a long prompt gets at present, beside what is being decoded."""
        alone = self._prefill.per_s
        if not alone:
            return 0.0
        beside = self._decode_alone.s_each if self._decoding else 0.0
        return self._chunk_tokens / (self._chunk_tokens / alone + beside)

    @property
    def decode_s_per_token(self) -> float:
        """What an answer waits for its next token at present; 0 while nothing was measured."""
        return self._decode.s_each
