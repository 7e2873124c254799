"""The judge of the demo's answers: the same model in this process, with nothing cached."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import trio

from inference.request import (
    ChatPrompt,
    EngineRequest,
    FinishReason,
    Message,
    Namespace,
    Sampling,
)
from inference.worker import EngineWorker

Tokens = tuple[int, ...]

NAMESPACE = Namespace("reference")
CHAIN_KEY = bytes(32)


class Reference:
    """A cache-off engine: every answer is computed from its first token."""

    def __init__(self, model: str | None) -> None:
        self._model = model
        self._engine: EngineWorker | None = None
        self._asked = 0

    def load(self, say: Callable[[str, float], None]) -> None:
        """Loads the model, converting it where that was never done.

        Raises:
            inference.errors.ModelMissing: With what to run.
        """
        from inference.embedded import EngineSettings, load_engine

        settings = EngineSettings(
            model=self._model, device="cpu", dtype="float32", threads=1, prefix_cache=False
        )
        self._engine = EngineWorker(load_engine(settings, say), in_thread=True)

    @property
    def engine(self) -> EngineWorker:
        """The loaded engine."""
        assert self._engine is not None, "load() comes first"
        return self._engine

    async def tokenize(self, messages: Sequence[Mapping[str, str]]) -> Tokens:
        """The token ids of a chat prompt, as every peer makes them."""
        prompt = ChatPrompt(
            messages=tuple(Message(role=m["role"], content=m["content"]) for m in messages)
        )
        model = self.engine.capabilities().models[0].name
        token_ids = await self.engine.tokenize(model, prompt)
        assert token_ids is not None, "roles and text can be read"
        return token_ids

    async def answers(
        self, prompts: Sequence[Tokens], fields: Mapping[str, Any], say: Callable[[int], None]
    ) -> list[Tokens]:
        """The answer to each prompt, one after the other."""
        found = []
        async with trio.open_nursery() as nursery:
            await nursery.start(self.engine.run)
            for done, prompt in enumerate(prompts):
                say(done)
                found.append(await self._answer(prompt, fields))
            nursery.cancel_scope.cancel()
        return found

    async def _answer(self, prompt: Tokens, fields: Mapping[str, Any]) -> Tokens:
        self._asked += 1
        request = EngineRequest(
            request_id=f"reference-{self._asked}",
            namespace=NAMESPACE,
            chain_key=CHAIN_KEY,
            model=self.engine.capabilities().models[0].name,
            token_ids=prompt,
            sampling=Sampling(
                seed=fields["seed"],
                temperature=fields["temperature"],
                max_tokens=fields["max_tokens"],
            ),
        )
        token_ids: list[int] = []
        reason: FinishReason | None = None
        async with self.engine.submit(request) as events:
            async for event in events:
                assert not event.cached_tokens, "a cache-off run takes nothing from a cache"
                token_ids += event.token_ids or ()
                reason = event.finish_reason
        assert reason is not None, "an answer ends with a reason"
        return tuple(token_ids)
