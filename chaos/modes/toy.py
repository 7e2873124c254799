"""The toy engines of simulated peers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from functools import lru_cache

from chaos.core_double import layers
from chaos.remote_toy import RemoteToyConfig
from chaos.scenario.schedule import Schedule
from inference import toy_language
from inference.core import EngineCore
from inference.events import BlockHash, BlocksEvicted, BlocksStored, CacheEvent, Cleared
from inference.request import (
    BodyPrompt,
    ChatPrompt,
    EngineRequest,
    Prompt,
    ServedModel,
    TextPrompt,
    TokenEvent,
)
from inference.toy import ToyConfig, ToyEngine, _Sequence

_MARK = " canary"


@dataclass(frozen=True, slots=True)
class OtherModel:
    """Another model under the same name: another ``tokenizer``, or else other weights.

    With either it answers otherwise.
    """

    tokenizer: bool

    def of(self, model: ServedModel) -> ServedModel:
        """What it says of itself."""
        if self.tokenizer:
            other = replace(model.prefix, tokenizer=f"other {model.prefix.tokenizer}")
            return replace(model, prefix=other)
        return replace(model, output=replace(model.output, weights=f"other {model.output.weights}"))


@dataclass(frozen=True, slots=True)
class _WrongBlock:
    block: BlockHash
    noticed: Callable[[], None]


class SimToy(ToyEngine):
    """The toy engine, which reads a prompt once for all engines of a process.

    Its model may be another one (``other``), its answers end early, and a block that it has cached
    be wrong; ``noticed`` is called each time that this shows in an answer.
    """

    def __init__(self, config: ToyConfig, other: OtherModel | None = None) -> None:
        super().__init__(config)
        self.other = other
        self.on_other: Callable[[], None] | None = None
        self._early: dict[str, tuple[int, Callable[[], None]]] = {}
        self._wrong: dict[str, _WrongBlock] = {}
        if other is not None:
            self._model = other.of(self._model)
            self._capabilities = replace(self._capabilities, models=(self._model,))

    # -- what ails it

    def end_early(self, key: str, after_tokens: int, noticed: Callable[[], None]) -> None:
        """Every answer ends after so many tokens, until :meth:`mend` is called with the key."""
        self._early[key] = after_tokens, noticed

    def corrupt(self, key: str, depth: int, noticed: Callable[[], None]) -> bool:
        """A cached block that has so many before it is wrong from now on, until it is evicted.

        Of several the one that most blocks stand on. What is answered from it is wrong.

        Returns:
            Whether there is one.
        """
        block = most_used(self._cache.contents(), depth)
        if block is not None:
            self._wrong[key] = _WrongBlock(block, noticed)
        return block is not None

    def mend(self, key: str) -> None:
        """Ends :meth:`end_early` and :meth:`corrupt`. Unknown: no effect."""
        self._early.pop(key, None)
        self._wrong.pop(key, None)

    def cache_events(self) -> tuple[CacheEvent, ...]:
        events = super().cache_events()
        for key, wrong in tuple(self._wrong.items()):
            if any(_is_gone(wrong.block, event) for event in events):
                del self._wrong[key]
        return events

    def _sequence(self, request: EngineRequest, tokens_max: int) -> _Sequence:
        sequence = super()._sequence(request, tokens_max)
        if self.other is not None:
            _mislead(sequence)
            if self.on_other is not None:
                self.on_other()
        return sequence

    def _admit(self, events: list[tuple[str, TokenEvent]]) -> None:
        before = self._prefilling
        super()._admit(events)
        sequence = self._prefilling
        if not self._wrong or sequence is None or sequence is before:
            return
        assert sequence.lease is not None
        taken = set(sequence.hashes[: sequence.lease.cached_blocks])
        for wrong in tuple(self._wrong.values()):
            if wrong.block in taken:
                _mislead(sequence)
                wrong.noticed()

    def _emit(
        self,
        sequence: _Sequence,
        token_ids: tuple[int, ...],
        events: list[tuple[str, TokenEvent]],
    ) -> None:
        if self._early and token_ids and sequence.finish_reason is None:
            before = len(sequence.request.token_ids) + len(sequence.request.emitted)
            said = len(sequence.tokens) - before
            due = [noticed for most, noticed in self._early.values() if said > most]
            if due:
                sequence.tokens[-1] = toy_language.END
                token_ids = (toy_language.END,)
            for noticed in due:
                noticed()
        super()._emit(sequence, token_ids, events)

    def tokenize(self, model: str, prompt: Prompt) -> tuple[int, ...] | None:
        if isinstance(prompt, BodyPrompt) or model != self.capabilities().models[0].name:
            return super().tokenize(model, prompt)
        return toy_ids(prompt)


def _mislead(sequence: _Sequence) -> None:
    """All that it answers from here on is something else."""
    sequence.speaker._heard.update(b"something else")


def _is_gone(block: BlockHash, event: CacheEvent) -> bool:
    return isinstance(event, Cleared) or (
        isinstance(event, BlocksEvicted) and block in event.blocks
    )


def most_used(contents: Iterable[BlocksStored], depth: int) -> BlockHash | None:
    """Of the blocks that have so many before them, the one that most others stand on."""
    above: dict[BlockHash, BlockHash] = {}
    counts: dict[BlockHash, int] = {}
    for run in contents:
        parent = None if run.parent is None else above.get(run.parent)
        for number, block in enumerate(run.blocks, start=run.depth):
            parent = block if number == depth else parent
            if parent is not None:
                above[block] = parent
                counts[parent] = counts.get(parent, 0) + 1
    return max(counts, key=lambda block: counts[block], default=None)


def sim_toy_of(core: EngineCore) -> SimToy | None:
    """The simulated toy below doubles and taps, which have theirs as ``inner``."""
    return next((part for part in layers(core) if isinstance(part, SimToy)), None)


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
    made = ToyConfig(
        slots=plan.slots,
        total_blocks=plan.cache_blocks,
        context_tokens=plan.context_tokens,
        prefill_tokens_per_s=plan.prefill_tokens_per_s / slower,
        decode_s_per_token=plan.decode_ms_per_token / 1000 * slower,
    )
    if name not in plan.remote:
        return made
    return RemoteToyConfig(
        **{each.name: getattr(made, each.name) for each in fields(made)},
        salts=plan.remote_salts,
        tells_ids=plan.remote_tells_ids,
        exact=plan.remote_exact,
    )
