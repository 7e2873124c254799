"""A tap on a core mode engine: SERVED for each request (``chaos/observe/serving.py``)."""

from __future__ import annotations

from dataclasses import dataclass, field

from chaos.history import What
from chaos.modes.core.engine import CoreEngine, OnEvent
from chaos.observe.serving import Blocks, LeftBehind
from chaos.observe.watching import Watching
from inference.errors import InferenceError
from inference.request import BLOCK_TOKENS, EngineRequest, TokenEvent


@dataclass(eq=False)
class ServedTap:
    """The tap on one boot's engine."""

    watching: Watching
    node: str
    engine: CoreEngine
    _left: dict[str, LeftBehind] = field(default_factory=dict)
    _requests: int = 0

    def install(self) -> None:
        """Puts the tap on."""
        submit = self.engine.submit

        def submit_heard(request: EngineRequest, on_event: OnEvent) -> None:
            submit(request, self._heard(request, on_event))

        self.engine.submit = submit_heard  # type: ignore[method-assign]  # the tap

    def _heard(self, request: EngineRequest, on_event: OnEvent) -> OnEvent:
        self._requests += 1
        number, left = self._requests, self._left.setdefault(str(request.namespace), LeftBehind())
        blocks = Blocks((*request.token_ids, *request.emitted))
        own = len(blocks.names)
        left.add(number, blocks.names)

        def hear(event: TokenEvent | InferenceError) -> None:
            if isinstance(event, TokenEvent):
                if event.cached_tokens is not None:
                    explained = left.blocks(number, blocks.names[:own])
                    self._served(request, event.cached_tokens, explained)
                if event.token_ids:
                    left.add(number, blocks.extend(event.token_ids))
            on_event(event)

        return hear

    def _served(self, request: EngineRequest, cached_tokens: int, blocks: int) -> None:
        prompt_tokens = len(request.token_ids)
        self.watching.add(
            What.SERVED,
            self.node,
            request=self.watching.request_name(request.request_id),
            tenant=self.watching.tenant_name(str(request.namespace)),
            prompt_tokens=prompt_tokens,
            cached_tokens=min(cached_tokens, prompt_tokens),
            explained_tokens=min(blocks * BLOCK_TOKENS, prompt_tokens),
        )
