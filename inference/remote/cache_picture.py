"""What a peer believes a remote inference server has in its prefix cache.

There are two kinds. ``events/mirror.py`` folds the server's own cache events and knows exactly;
``estimate.py`` reasons from what was sent to the server and how it answered. The engine feeds both
the same way and need not know which one it has:

1. ``learn`` at each request, before it is sent.
2. ``started`` when it is sent, ``prefilled`` at its first token, ``finished`` at its end.
3. ``tick`` now and then, ``cleared`` when the server was started anew.
4. ``drain`` gives the picture's changes as our cache events, in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from inference.events import BlockHash, CacheEvent
from inference.request import Namespace


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a request ended, as far as it tells something about the cache.

    ``answered`` says that the whole prompt was computed: there was at least one token.
    ``prompt_tokens`` and ``cached_tokens`` are the server's own count, None where it does not tell.
    ``first_token_s`` is the measured time to the first token, ``alone`` whether nothing else ran
    at the server all that time, ``prefill_tokens_per_s`` the server's usual rate (0: not known).
    """

    answered: bool
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    first_token_s: float | None = None
    alone: bool = False
    prefill_tokens_per_s: float = 0.0


class CachePicture(Protocol):
    """The cached blocks of one server, per namespace.

    ``exact`` says that the picture is what the server told, without a gap. ``learn`` names the
    chain key of a namespace and the salt that its requests carry at the server; it may be called
    again and again. ``match`` is how many leading blocks are held. ``started`` returns how many of
    the prompt's blocks are expected to come from the cache; ``prefilled`` says that all of them are
    computed now, and is optional. A request that never ``finished`` costs some memory, which is
    bounded. ``drop`` forgets a namespace, whose chain key and salt are others from then on.
    ``drain`` empties; where nobody drains, what is told next is ``Cleared`` and
    everything that is held. ``posture`` is lines of (name, words) for the host's owner.
    """

    @property
    def exact(self) -> bool: ...

    def learn(self, namespace: Namespace, chain_key: bytes, salt: str | None) -> None: ...

    def match(self, namespace: Namespace, hashes: Sequence[BlockHash]) -> int: ...

    def started(
        self, request_id: str, namespace: Namespace, hashes: Sequence[BlockHash], now_s: float
    ) -> int: ...

    def prefilled(self, request_id: str, now_s: float) -> None: ...

    def finished(self, request_id: str, outcome: Outcome, now_s: float) -> None: ...

    def tick(self, now_s: float) -> None: ...

    def drop(self, namespace: Namespace) -> None: ...

    def cleared(self) -> None: ...

    def drain(self) -> tuple[CacheEvent, ...]: ...

    def posture(self) -> list[tuple[str, str]]: ...
