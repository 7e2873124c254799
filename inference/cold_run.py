"""A request's run as others see it: that of the same request with nothing cached.

``cursor`` says how far a cold run would be. Each step computes for the request what the cold run
would compute then, in the same shape, and throws away what is in the cache already: so a step takes
the same time whether the prompt was found or not. What the cache is good for is the tenant's alone:

1. Beside every chunk of the cold run but the prompt's last, :data:`AHEAD_TOKENS` rows are computed,
   whatever the cache holds. Where the request is ahead of its cold run these rows are its own next
   ones, of the prompt or of the answer; else they are idle.
2. All rows of :data:`AHEAD_TOKENS` are compared with the same number of keys in all.
3. A request that has answered all, or was given up, stays until the cold run would have told as
   many tokens.
"""

from __future__ import annotations

from inference.cache import PrefixCache
from inference.generation import Generation
from inference.step import CHUNK_TOKENS, Rows, chunk_end

AHEAD_TOKENS = 32
"""Rows beside each chunk: they cost every long prompt an eighth, and are as many as a request whose
prefix is cached may compute of its prompt in a step."""


class ColdRun:
    """One started request and its cold run.

    ``given`` is the length of its prompt, ``blocks`` what it needs with nothing cached; ``left``
    says that nobody waits for it any more.
    """

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self.given = generation.given_tokens
        self.blocks = generation.needed_blocks()
        self.cursor = 0
        self.left = False

    @property
    def decoding(self) -> bool:
        """Whether the cold run has its prompt behind it."""
        return self.cursor >= self.given

    @property
    def uncached_tokens(self) -> int:
        """Prompt tokens that the cold run has before it."""
        return max(0, self.given - self.cursor)

    @property
    def caught_up(self) -> bool:
        """Whether the cold run has told as many tokens as the request has."""
        told = len(self.generation.tokens) - self.given
        return told <= max(0, self.cursor + 1 - self.given)

    def next_token(self, cache: PrefixCache) -> Rows:
        """The row that gives the cold run's next token."""
        generation, at = self.generation, self.cursor
        self.cursor += 1
        ahead = generation.computed > at
        if not ahead:
            generation.grow(cache, beyond=False)
        return self._rows(at, at + 1, decode=True, kept_from=self.cursor if ahead else at)

    def chunk(self) -> int:
        """How many rows its next chunk has."""
        return chunk_end(self.cursor, self.given) - self.cursor

    def next_chunk(self, cache: PrefixCache, *, reuse: bool) -> list[Rows]:
        """The cold run's next chunk, and the rows beside it."""
        generation = self.generation
        if reuse and not self.left and not generation.decoding:
            generation.adopt(cache)
        start, end = self.cursor, chunk_end(self.cursor, self.given)
        chunk = self._rows(start, end, kept_from=generation.computed)
        rows = [chunk]
        if end < self.given:
            rows.append(self._ahead(cache, useful=not chunk.kept and not self.left))
        self.cursor = end
        return rows

    def _ahead(self, cache: PrefixCache, *, useful: bool) -> Rows:
        generation = self.generation
        start, known = generation.computed, len(generation.tokens)
        last = chunk_end(self.given - 1, self.given + CHUNK_TOKENS)
        if useful and start < last + CHUNK_TOKENS:
            end = min(known, start + AHEAD_TOKENS, chunk_end(start, known))
            generation.grow(cache, beyond=False)
            kept_from = start
        else:
            start = max(self.given - AHEAD_TOKENS, last - CHUNK_TOKENS)
            end = kept_from = self.given
        seen = chunk_end(start, start + CHUNK_TOKENS)
        return self._rows(
            start,
            end,
            kept_from=kept_from,
            idle_rows=AHEAD_TOKENS - (end - start),
            idle_keys=last + 2 * CHUNK_TOKENS - seen,
        )

    def _rows(
        self,
        start: int,
        end: int,
        *,
        decode: bool = False,
        kept_from: int,
        idle_rows: int = 0,
        idle_keys: int = 0,
    ) -> Rows:
        lease = self.generation.lease
        assert lease is not None
        return Rows(
            token_ids=self.generation.tokens[start:end],
            start=start,
            blocks=lease.block_ids,
            decode=decode,
            logits=decode or idle_keys > 0 or end == self.given,
            kept_from=kept_from,
            idle_rows=idle_rows,
            idle_keys=idle_keys,
        )
