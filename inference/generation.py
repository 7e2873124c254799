"""One request on its way through the embedded engine: its tokens, blocks, text and end.

Positions count from 0 over prompt and answer. The tokens before ``computed`` have keys and values
in the pool; the last token never does, as it is what the next step computes.
"""

from __future__ import annotations

from inference.blocks import BlockChain, blocks_for, reusable_blocks
from inference.cache import Lease, PrefixCache
from inference.detokenizer import Decode, TextStream
from inference.events import BlockHash
from inference.request import BLOCK_TOKENS, EngineRequest, FinishReason, TokenEvent
from inference.step import Rows, chunk_end


class Generation:
    """A request that waits or runs.

    Args:
        request: What is asked for; checked already.
        chain: How the tenant's blocks are named.
        decode: Token ids to text.
        end_tokens: Tokens that end the answer.
        context_tokens: Where the answer ends at the latest.
    """

    def __init__(
        self,
        request: EngineRequest,
        *,
        chain: BlockChain,
        decode: Decode,
        end_tokens: frozenset[int],
        context_tokens: int,
    ) -> None:
        self.request = request
        self.tokens = [*request.token_ids, *request.emitted]
        self.given_tokens = len(self.tokens)
        self.computed = 0
        self.uncached_tokens = self.given_tokens
        self.lease: Lease | None = None
        self._chain = chain
        self._hashes: list[BlockHash] = []
        self._end_tokens = end_tokens
        self._text = TextStream(decode, stop=request.sampling.stop, emitted=request.emitted)
        self._cached_tokens: int | None = 0
        allowed = request.sampling.max_tokens
        whole = context_tokens if allowed is None else len(request.token_ids) + allowed
        self._length = min(whole, context_tokens)

    @property
    def request_id(self) -> str:
        return self.request.request_id

    def ended(self) -> FinishReason | None:
        """Why the answer is over with the tokens it has, None while it is not."""
        if self._text.stopped:
            return FinishReason.STOP
        answered = len(self.tokens) > len(self.request.token_ids)
        if answered and self.tokens[-1] in self._end_tokens:
            return FinishReason.STOP
        return FinishReason.LENGTH if len(self.tokens) >= self._length else None

    def reusable(self) -> list[BlockHash]:
        """The names of the blocks that may come from the cache; the last token is computed."""
        blocks = reusable_blocks(self.given_tokens)
        if len(self._hashes) < blocks:
            self._hashes = self._chain.hashes(self.tokens[: blocks * BLOCK_TOKENS])
        return self._hashes[:blocks]

    def start(self, cache: PrefixCache, *, reuse: bool) -> None:
        """Takes blocks from the cache; raises ``CacheFull`` and changes nothing when it cannot."""
        lease = cache.acquire(
            self.request.namespace,
            self.reusable() if reuse else (),
            blocks_for(self._length),
            at_once=blocks_for(self.given_tokens),
        )
        self.lease = lease
        self.computed = lease.cached_blocks * BLOCK_TOKENS
        self.uncached_tokens = self.given_tokens - self.computed
        self._cached_tokens = min(self.computed, len(self.request.token_ids))

    def rows(self, cache: PrefixCache) -> Rows:
        """What to compute next; makes room for it."""
        assert self.lease is not None
        decode = self.computed >= self.given_tokens
        end = len(self.tokens) if decode else chunk_end(self.computed, self.given_tokens)
        cache.grow(self.lease, blocks_for(end))
        return Rows(
            token_ids=self.tokens[self.computed : end],
            start=self.computed,
            blocks=self.lease.block_ids,
            decode=decode,
            logits=end == len(self.tokens),
        )

    def on_computed(self, rows: Rows) -> None:
        """The rows' keys and values are in the pool."""
        self.computed = rows.end
        self.uncached_tokens = max(0, self.given_tokens - self.computed)

    def on_token(self, token_id: int) -> TokenEvent:
        """Takes the next token in and gives what the caller is told."""
        self.tokens.append(token_id)
        text = self._text.push([token_id])
        return self._event((token_id,), text)

    def on_nothing_left(self) -> TokenEvent:
        """The event of a resumed answer that was complete already."""
        return self._event((), "")

    def _event(self, token_ids: tuple[int, ...], text: str) -> TokenEvent:
        reason = self.ended()
        if reason is not None:
            text += self._text.flush()
            reason = self.ended()
        event = TokenEvent(
            token_ids=token_ids,
            text=text,
            cached_tokens=self._cached_tokens,
            finish_reason=reason,
        )
        self._cached_tokens = None
        return event

    def commit(self, cache: PrefixCache, *, decoded: bool) -> None:
        """Makes the computed full blocks reusable; with ``decoded`` the answer's too."""
        assert self.lease is not None
        until = self.computed if decoded else min(self.computed, len(self.request.token_ids))
        first, end = self.lease.committed_blocks, until // BLOCK_TOKENS
        if end <= first:
            return
        known = len(self._hashes)
        if known < end:
            parent = self._hashes[-1] if known else self._chain.root
            fresh = self.tokens[known * BLOCK_TOKENS : end * BLOCK_TOKENS]
            self._hashes += self._chain.extend(parent, fresh)
        cache.commit(self.lease, self._hashes[first:end])

    def leave(self, cache: PrefixCache) -> None:
        """Gives the blocks back; what was committed stays cached."""
        if self.lease is not None:
            cache.release(self.lease)
            self.lease = None
