"""A tap on an engine port: SERVED for each request, with what its own tenant can have left there.

The model knows nothing of hashes or namespaces of the product: it keeps, for each tenant and chain
key of it, the blocks of tokens that the tenant's own requests have brought to this engine.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from chaos.engine import FalseEvent
from chaos.history import What
from chaos.observe.watching import Watching
from chaos.pieces import piece_of
from inference.request import BLOCK_TOKENS, EngineRequest, TokenEvent
from overlay.ports import Engine, TokenStream

_BLOCK_BYTES = BLOCK_TOKENS * array("I").itemsize

_NOBODY = -1
_SEVERAL = -2


@dataclass(slots=True)
class LeftBehind:
    """Blocks that one tenant's requests can have left at one engine, and by which request."""

    _by: dict[bytes, int] = field(default_factory=dict)

    def add(self, request: int, names: Sequence[bytes]) -> None:
        """A request brings these blocks."""
        for name in names:
            before = self._by.get(name, _NOBODY)
            if before != request:
                self._by[name] = request if before == _NOBODY else _SEVERAL

    def blocks(self, request: int, names: Sequence[bytes]) -> int:
        """How many of these blocks, from the first on, others than this request have brought."""
        for count, name in enumerate(names):
            if self._by.get(name, request) == request:
                return count
        return len(names)


class Blocks:
    """The names of a growing sequence's full blocks, each of all that stands before its end."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        self.names: list[bytes] = []
        self._rest: list[int] = []
        self._state = hashlib.blake2b(digest_size=16)
        self.extend(token_ids)

    def extend(self, token_ids: Sequence[int]) -> list[bytes]:
        """Takes more tokens in; gives the names of the blocks that they complete."""
        self._rest += token_ids
        whole = len(self._rest) // BLOCK_TOKENS * BLOCK_TOKENS
        if not whole:
            return []
        fresh, data = [], array("I", self._rest[:whole]).tobytes()
        for start in range(0, len(data), _BLOCK_BYTES):
            self._state.update(data[start : start + _BLOCK_BYTES])
            fresh.append(self._state.digest())
        del self._rest[:whole]
        self.names += fresh
        return fresh


class EngineTap:
    """``overlay.ports.Engine`` that is listened to; one for each boot.

    ``on_text`` is called with the tenant's id and each piece of text that it is answered.
    ``said_s`` gives the time where all that the engine says is told as well (SAID).
    """

    def __init__(
        self,
        inner: Engine,
        watching: Watching,
        node: str,
        on_text: Callable[[str, str], None] | None,
        said_s: Callable[[], float] | None = None,
    ) -> None:
        self.inner = inner
        self._watching = watching
        self._node = node
        self._on_text = on_text
        self._left: dict[tuple[str, bytes], LeftBehind] = {}
        self._requests = 0
        self._said_s = said_s
        # Not looked up at each call: a router asks for these at every request.
        self.capabilities = inner.capabilities
        self.tokenize = inner.tokenize
        self.cancel = inner.cancel
        self.load = inner.load
        self.stalled = inner.stalled
        self.cache_events = inner.cache_events
        self.run = inner.run

    def __getattr__(self, name: str) -> Any:  # whatever an engine has beyond the port
        return getattr(self.inner, name)

    def submit(self, request: EngineRequest) -> AbstractAsyncContextManager[TokenStream]:
        return self._submitted(request)

    @asynccontextmanager
    async def _submitted(self, request: EngineRequest) -> AsyncIterator[TokenStream]:
        async with self.inner.submit(request) as stream:
            self._requests += 1
            # After a hard rotation of a tenant nothing that it has left before may be used.
            whose = str(request.namespace), request.chain_key
            left = self._left.setdefault(whose, LeftBehind())
            overheard = _Overheard(stream, self, request, left, self._requests)
            if self._said_s is None:
                yield overheard
                return
            from_s = self._said_s()
            try:
                yield overheard
            finally:
                self._said_all(request, overheard, from_s)

    def _said_all(self, request: EngineRequest, overheard: _Overheard, from_s: float) -> None:
        self._watching.add(
            What.SAID,
            self._node,
            request=self._watching.request_name(request.request_id),
            from_s=round(from_s, 6),
            pieces=overheard.pieces,
            whole=overheard.whole,
            completion_tokens=overheard.completion_tokens,
        )

    def served(self, request: EngineRequest, cached_tokens: int, blocks: int) -> None:
        """The engine has taken so much from its cache; ``blocks`` can be explained."""
        prompt_tokens = len(request.token_ids)
        self._watching.add(
            What.SERVED,
            self._node,
            request=self._watching.request_name(request.request_id),
            tenant=self._watching.tenant_name(str(request.namespace)),
            prompt_tokens=prompt_tokens,
            cached_tokens=min(cached_tokens, prompt_tokens),
            explained_tokens=min(blocks * BLOCK_TOKENS, prompt_tokens),
        )

    def said(self, request: EngineRequest, text: str) -> None:
        """A piece of an answer."""
        if self._on_text is not None and text:
            self._on_text(str(request.namespace), text)


class _Overheard:
    """An answer under way, and the blocks that its request leaves behind."""

    def __init__(
        self,
        inner: TokenStream,
        tap: EngineTap,
        request: EngineRequest,
        left: LeftBehind,
        number: int,
    ) -> None:
        self._inner = inner
        self._tap = tap
        self._request = request
        self._left = left
        self._number = number
        self._blocks = Blocks((*request.token_ids, *request.emitted))
        self._own = len(self._blocks.names)
        left.add(number, self._blocks.names)
        self.pieces: list[str] = []
        self.whole = False
        self.completion_tokens: int | None = None

    def __aiter__(self) -> _Overheard:
        return self

    async def __anext__(self) -> TokenEvent:
        event = await anext(self._inner)
        if event.cached_tokens is not None:
            names = self._blocks.names[: self._own]
            explained = self._left.blocks(self._number, names)
            # What it took, whatever it says: a lie is no use of another's blocks, and hides none.
            told = event.cached_tokens
            taken = event.taken_tokens if isinstance(event, FalseEvent) else told
            self._tap.served(self._request, taken, explained)
        if event.token_ids:
            self._left.add(self._number, self._blocks.extend(event.token_ids))
        self._tap.said(self._request, event.text)
        self._note(event)
        return event

    def _note(self, event: TokenEvent) -> None:
        piece = piece_of(event.token_ids, event.text, event.chunk)
        if piece:
            self.pieces.append(piece)
        self.whole = event.finish_reason is not None
        if event.usage is not None:
            self.completion_tokens = event.usage.completion_tokens
