"""The toy engines of simulated peers."""

from __future__ import annotations

from functools import lru_cache

from chaos.scenario.schedule import Schedule
from inference import toy_language
from inference.request import BodyPrompt, ChatPrompt, Prompt, TextPrompt
from inference.toy import ToyConfig, ToyEngine

_MARK = " canary"


class SimToy(ToyEngine):
    """The toy engine, which reads a prompt once for all engines of a process."""

    def tokenize(self, model: str, prompt: Prompt) -> tuple[int, ...] | None:
        if isinstance(prompt, BodyPrompt) or model != self.capabilities().models[0].name:
            return super().tokenize(model, prompt)
        return toy_ids(prompt)


@lru_cache(maxsize=1024)
def toy_ids(prompt: ChatPrompt | TextPrompt) -> tuple[int, ...]:
    """The toy tokenizer's ids of a prompt. Raises ``InvalidRequest``."""
    return toy_language.encode(prompt, _text_ids)


def _text_ids(text: str) -> tuple[int, ...]:
    """Many prompts quote the same document in front of their tenant's canary."""
    document, mark, rest = text.partition(_MARK)
    return (*_document_ids(document), *toy_language.text_tokens(mark + rest))


@lru_cache(maxsize=256)
def _document_ids(document: str) -> tuple[int, ...]:
    return tuple(toy_language.text_tokens(document))


def toy_of(schedule: Schedule, name: str) -> ToyConfig:
    """The engine of a node while nothing ails it."""
    plan = schedule.cluster
    slower = plan.slow.get(name, 1.0)
    return ToyConfig(
        slots=plan.slots,
        total_blocks=plan.cache_blocks,
        context_tokens=plan.context_tokens,
        prefill_tokens_per_s=plan.prefill_tokens_per_s / slower,
        decode_s_per_token=plan.decode_ms_per_token / 1000 * slower,
    )
