"""One request on its way through the embedded engine: its tokens, blocks, text and end.

Positions count from 0 over prompt and answer. The tokens before ``computed`` have keys and values
in the pool; the last token never does, as it is what the next step computes. A preempted request
keeps its tokens and loses its blocks: when it starts again it prefills prompt and answer alike.
"""

from __future__ import annotations

from inference.blocks import BlockChain, block_tokens, blocks_for, reusable_blocks
from inference.cache import Lease, PrefixCache
from inference.detokenizer import Decode, TextStream
from inference.events import BlockHash
from inference.request import BLOCK_TOKENS, EngineRequest, FinishReason, Namespace, TokenEvent
from inference.step import Rows, chunk_end

LOOKAHEAD_TOKENS = 64
"""Tokens of the answer that a request has blocks promised for when it starts. Each time that it is
preempted this doubles, so that it never starts again and again for a few tokens."""


class Generation:
    """A request that waits or runs.

    Args:
        request: What is asked for; checked already.
        chain: How the tenant's blocks are named.
        decode: Token ids to text.
        end_tokens: Tokens that end the answer.
        context_tokens: Where the answer ends at the latest.
        arrival: Its number among all requests.
        lookahead_tokens: Tokens of the answer that it has blocks promised for when it starts.
    """

    def __init__(
        self,
        request: EngineRequest,
        *,
        chain: BlockChain,
        decode: Decode,
        end_tokens: frozenset[int],
        context_tokens: int,
        arrival: int,
        lookahead_tokens: int = LOOKAHEAD_TOKENS,
    ) -> None:
        self.request = request
        self.arrival = arrival
        self.tokens = [*request.token_ids, *request.emitted]
        self.given_tokens = len(self.tokens)
        self.computed = 0
        self.uncached_tokens = self.given_tokens
        self.lease: Lease | None = None
        self.first_start = True
        self.estimated = False
        self._lookahead = lookahead_tokens
        self._chain = chain
        self._hashes: list[BlockHash] = []
        self._contents: list[bytes] = []
        self._end_tokens = end_tokens
        self._text = TextStream(decode, stop=request.sampling.stop, emitted=request.emitted)
        self._cached_tokens: int | None = 0
        allowed = request.sampling.max_tokens
        whole = context_tokens if allowed is None else len(request.token_ids) + allowed
        self._length = min(whole, context_tokens)

    @property
    def request_id(self) -> str:
        return self.request.request_id

    @property
    def namespace(self) -> Namespace:
        return self.request.namespace

    @property
    def decoding(self) -> bool:
        """Whether a started request has its prompt behind it."""
        return self.computed >= self.given_tokens

    def ended(self) -> FinishReason | None:
        """Why the answer is over with the tokens it has, None while it is not."""
        if self._text.stopped:
            return FinishReason.STOP
        answered = len(self.tokens) > len(self.request.token_ids)
        if answered and self.tokens[-1] in self._end_tokens:
            return FinishReason.STOP
        return FinishReason.LENGTH if len(self.tokens) >= self._length else None

    def reusable(self) -> int:
        """How many blocks may come from the cache, all named; the last token is computed."""
        blocks = reusable_blocks(self.given_tokens)
        self._name(blocks)
        return blocks

    def cached_blocks(self, cache: PrefixCache) -> int:
        """How many blocks it would find at present."""
        blocks = self.reusable()
        return cache.match(self.namespace, self._hashes[:blocks], self._contents[:blocks])

    def start(self, cache: PrefixCache, *, reuse: bool, beyond: bool) -> None:
        """Takes blocks from the cache; raises ``CacheFull`` and changes nothing when it cannot.

        Args:
            cache: Where from.
            reuse: Whether cached blocks may be used.
            beyond: Whether the shares of other tenants may be used.
        """
        self.given_tokens = len(self.tokens)
        blocks = self.reusable() if reuse else 0
        lease = cache.acquire(
            self.namespace,
            self._hashes[:blocks],
            self.needed_blocks(),
            tokens=self._contents[:blocks],
            at_once=blocks_for(self.given_tokens),
            beyond=beyond,
        )
        self.lease = lease
        self._found(lease.cached_blocks)

    def needed_blocks(self) -> int:
        """What a start would be promised if nothing were cached."""
        return blocks_for(min(self._length, len(self.tokens) + self._lookahead))

    def fits(self, blocks: int) -> bool:
        """Whether so many blocks hold it; an answer that was given no length ends with them."""
        room = blocks * BLOCK_TOKENS
        if self.request.sampling.max_tokens is None and len(self.tokens) < room:
            self._length = min(self._length, room)
        return self.needed_blocks() <= blocks

    def preempt(self, cache: PrefixCache) -> None:
        """Gives the blocks back and keeps the tokens."""
        self.leave(cache)
        self.computed = 0
        self.first_start = False
        self.given_tokens = self.uncached_tokens = len(self.tokens)
        self._lookahead *= 2

    def grow(self, cache: PrefixCache, *, beyond: bool) -> None:
        """Makes room for the next token; raises ``CacheFull`` where there is none."""
        assert self.lease is not None
        cache.grow(self.lease, blocks_for(len(self.tokens)), beyond=beyond)

    def next_token(self) -> Rows:
        """The row that gives the next token of the answer."""
        assert self.lease is not None
        end = len(self.tokens)
        return Rows(
            token_ids=self.tokens[self.computed : end],
            start=self.computed,
            blocks=self.lease.block_ids,
            decode=True,
            logits=True,
        )

    def adopt(self, cache: PrefixCache) -> None:
        """Takes over what others have computed of the prompt since."""
        lease = self.lease
        assert lease is not None
        first = lease.committed_blocks
        if self.computed == first * BLOCK_TOKENS:
            blocks = self.reusable()
            found = cache.adopt(lease, self._hashes[first:blocks], self._contents[first:blocks])
            if found:
                self._found(first + found)

    def next_chunk(self, cache: PrefixCache, *, reuse: bool) -> Rows:
        """The rows of the prompt's next chunk, after what others have computed of it since."""
        lease = self.lease
        assert lease is not None
        if reuse:
            self.adopt(cache)
        end = chunk_end(self.computed, self.given_tokens)
        return Rows(
            token_ids=self.tokens[self.computed : end],
            start=self.computed,
            blocks=lease.block_ids,
            decode=False,
            logits=end == len(self.tokens),
        )

    def _found(self, blocks: int) -> None:
        """So many leading blocks need not be computed."""
        found = blocks * BLOCK_TOKENS - self.computed
        self.computed += found
        self.uncached_tokens = self.given_tokens - self.computed
        if self._cached_tokens is not None and self.first_start:
            known = self._cached_tokens + found
            self._cached_tokens = min(known, len(self.request.token_ids))

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
        self._name(end)
        cache.commit(self.lease, self._hashes[first:end], self._contents[first:end])

    def leave(self, cache: PrefixCache, *, keep: bool = True) -> None:
        """Gives the blocks back; what was committed stays cached if it is to be kept."""
        if self.lease is not None:
            cache.release(self.lease, keep=keep)
            self.lease = None

    def _name(self, blocks: int) -> None:
        """Makes the names of the first so many blocks known."""
        known = len(self._hashes)
        if known < blocks:
            parent = self._hashes[-1] if known else self._chain.root
            fresh = self.tokens[known * BLOCK_TOKENS : blocks * BLOCK_TOKENS]
            self._hashes += self._chain.extend(parent, fresh)
            self._contents += block_tokens(fresh)
