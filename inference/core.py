"""What an engine computes, without a clock, a thread or a loop: the seam below ``worker.py``.

A core holds requests, a prefix cache and a way to make tokens, and is stepped from outside. The
toy engine (``toy.py``) and the embedded one (``embedded.py``) are two implementations.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from inference.errors import InferenceError
from inference.events import CacheEvent
from inference.request import (
    Capabilities,
    EngineLoad,
    EngineRequest,
    Namespace,
    Prompt,
    TokenEvent,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What one step gave.

    ``events`` and ``failed`` name the requests by id, in order; a request in ``failed`` has ended.
    ``virtual_s`` is the time that the step stands for where nothing is computed (toy), else 0: the
    worker lets it pass before it hands the events out.
    """

    events: tuple[tuple[str, TokenEvent], ...]
    failed: tuple[tuple[str, InferenceError], ...]
    virtual_s: float


class EngineCore(Protocol):
    """Requests in, token events out, one step of work at a time.

    ``add`` raises ``InvalidRequest``, ``ContextOverflow``, ``UnknownModel`` or
    ``EngineOverloaded``, and then nothing is kept. ``cancel`` is idempotent, frees the slot and
    the blocks at once, and no event of that request follows. ``cache_events`` drains, in order.
    ``tokenize`` gives None for a ``BodyPrompt`` that its tokenizer cannot read. ``step`` may run in
    another thread; while it does, only ``capabilities``, ``tokenize``, ``add``, ``share_among`` and
    ``load`` may be called. ``drop`` lets go what a namespace has cached: at once, or with the
    requests that use it. ``reset`` drops every request and the whole cache after a step that
    raised; it leaves a ``Cleared`` among the events. ``share_among`` tells who will use it: a core
    with fixed parts divides itself anew when nothing runs, and until then starts nothing. A core
    that hides hits holds a slot beyond an answer's end or its cancellation.
    """

    def capabilities(self) -> Capabilities: ...

    def tokenize(self, model: str, prompt: Prompt) -> tuple[int, ...] | None: ...

    def add(self, request: EngineRequest) -> None: ...

    def cancel(self, request_id: str) -> None: ...

    def share_among(self, tenants: Iterable[Namespace]) -> None: ...

    def step(self) -> StepResult: ...

    def has_work(self) -> bool: ...

    def load(self) -> EngineLoad: ...

    def cache_events(self) -> tuple[CacheEvent, ...]: ...

    def drop(self, namespace: Namespace) -> None: ...

    def reset(self) -> None: ...

    def close(self) -> None: ...
