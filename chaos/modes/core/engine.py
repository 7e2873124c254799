"""An engine core stepped by the heap, with the part of the engine port that needs no waiting."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chaos.engine import Claims, prefix_cache_of
from inference.core import EngineCore
from inference.errors import EngineFailed, InferenceError
from inference.events import CacheEvent, Cleared
from inference.request import (
    Capabilities,
    EngineLoad,
    EngineRequest,
    Namespace,
    Prompt,
    TokenEvent,
)

Later = Callable[[float, Callable[[], None]], None]
OnEvent = Callable[[TokenEvent | InferenceError], None]


Told = tuple[OnEvent | None, str, TokenEvent | InferenceError]


class CoreEngine:
    """Steps ``core`` whenever it has work, through ``later`` of the host that it runs on.

    ``claims`` change what is said of the cache, as those of ``chaos.engine.FaultyEngine``.
    """

    def __init__(self, core: EngineCore, later: Later) -> None:
        self.core = core
        self._later = later
        self._listeners: dict[str, OnEvent] = {}
        self._stepping = False
        self.claims: dict[str, Claims] = {}
        self._untold = False

    def capabilities(self) -> Capabilities:
        return self.core.capabilities()

    def tokenize(self, model: str, prompt: Prompt) -> tuple[int, ...]:
        token_ids = self.core.tokenize(model, prompt)
        assert token_ids is not None, "requests of this mode are of roles and text"
        return token_ids

    def load(self) -> EngineLoad:
        return self.core.load()

    def stalled(self) -> bool:
        """No fault of this mode makes an engine hang."""
        return False

    def cache_events(self) -> Sequence[CacheEvent]:
        """What is said to have happened in the cache since the last call."""
        events = list(self.core.cache_events())
        cache = prefix_cache_of(self.core) if self._untold else None
        if cache is not None:
            self._untold = False
            events = [Cleared(), *cache.contents()]
        for claims in tuple(self.claims.values()):
            events = claims(events)
        return events

    def drop(self, namespace: Namespace, chain_key: bytes) -> None:  # noqa: ARG002 - no request of this mode outlives its epoch
        """What a namespace has cached is void."""
        self.core.drop(namespace)

    def tell_anew(self) -> None:
        """The next :meth:`cache_events` gives ``Cleared`` and all that is held."""
        self._untold = True

    def submit(self, request: EngineRequest, on_event: OnEvent) -> None:
        """Runs a request; ``on_event`` gets its events, and nothing after the last or a cancel.

        Raises:
            InferenceError: As ``EngineCore.add``.
        """
        self.core.add(request)
        self._listeners[request.request_id] = on_event
        self._step_soon()

    def cancel(self, request_id: str) -> None:
        """Ends a request without a further event; unknown ones have none."""
        if self._listeners.pop(request_id, None) is not None:
            self.core.cancel(request_id)

    def _step_soon(self) -> None:
        if not self._stepping and self.core.has_work():
            self._stepping = True
            self._later(0.0, self._step)

    def _step(self) -> None:
        if not self.core.has_work():  # all that there was has been cancelled
            self._stepping = False
            return
        try:
            result = self.core.step()
        except Exception as error:  # noqa: BLE001 - as the worker: a broken step fails every request
            self._stepping = False
            self._break(f"{type(error).__name__}: {error}")
            return
        # Whose they are is settled before time passes: an id may be left and used again.
        told: list[Told] = [
            (self._listeners.get(name), name, event) for name, event in result.events
        ]
        told += [(self._listeners.get(name), name, error) for name, error in result.failed]
        self._later(result.virtual_s, lambda: self._deliver(told))

    def _deliver(self, told: Sequence[Told]) -> None:
        self._stepping = False
        for listener, name, event in told:
            if listener is None or self._listeners.get(name) is not listener:
                continue
            if isinstance(event, InferenceError) or event.finish_reason is not None:
                del self._listeners[name]
            listener(event)
        self._step_soon()

    def _break(self, reason: str) -> None:
        listeners, self._listeners = self._listeners, {}
        self.core.reset()
        for _, listener in sorted(listeners.items()):
            listener(EngineFailed(reason))
