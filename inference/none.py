"""No engine at all: a peer that only takes requests in and forwards them (``--engine none``).

It imports neither torch nor a tokenizer. Prompts travel as text then, and the serving peer
tokenises them.
"""

from __future__ import annotations

from collections.abc import Iterable

from inference.core import StepResult
from inference.errors import UnknownModel
from inference.events import CacheEvent
from inference.request import (
    BLOCK_TOKENS,
    Capabilities,
    EngineLoad,
    EngineRequest,
    Namespace,
    Prompt,
)
from inference.worker import EngineWorker

NOTHING = "this peer runs no engine"


def no_engine() -> EngineWorker:
    """The engine of an ingress-only peer."""
    return EngineWorker(NoCore(), in_thread=False)


class NoCore:
    """An engine core (``inference.core.EngineCore``) that serves no model."""

    def capabilities(self) -> Capabilities:
        return Capabilities(
            models=(),
            slots=0,
            block_tokens=BLOCK_TOKENS,
            exact_claims=True,
            salts=True,
            tokenizes=False,
            reports_token_ids=True,
            description="none (ingress only)",
        )

    def tokenize(self, model: str, prompt: Prompt) -> tuple[int, ...] | None:  # noqa: ARG002 - nothing to read
        """Raises ``UnknownModel``: there is no tokenizer here."""
        raise UnknownModel(NOTHING)

    def add(self, request: EngineRequest) -> None:  # noqa: ARG002 - nothing to run
        """Raises ``UnknownModel``: there is no model here."""
        raise UnknownModel(NOTHING)

    def cancel(self, request_id: str) -> None:
        """No request is ever running here."""

    def share_among(self, tenants: Iterable[Namespace]) -> None:
        """There is nothing to divide."""

    def step(self) -> StepResult:
        return StepResult(events=(), failed=(), virtual_s=0.0)

    def has_work(self) -> bool:
        return False

    def load(self) -> EngineLoad:
        return EngineLoad(
            running=0,
            queued=0,
            queued_tokens=0,
            prefill_tokens_per_s=0.0,
            decode_s_per_token=0.0,
            used_blocks=0,
            total_blocks=0,
        )

    def drop(self, namespace: Namespace) -> None:
        """Nothing is cached here."""

    def cache_events(self) -> tuple[CacheEvent, ...]:
        return ()

    def reset(self) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing is held."""
