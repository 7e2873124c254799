"""Tiny models made in a moment, and an embedded engine driven by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from inference.core import StepResult
from inference.embedded import EngineSettings, load_engine
from inference.request import EngineRequest, Namespace, Sampling, TokenEvent
from inference.scheduler import EmbeddedCore

TEMPLATE = (
    "{% for m in messages %}{{ '<s>' + m['role'] + ':' + m['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant:' }}{% endif %}"
)


def save_tokenizer(folder: Path) -> None:
    """A tokenizer with a token for each byte, two marks and a chat template."""

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(["<s>", "</s>", *letters])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE
    )
    tokenizer.save_pretrained(folder)


def save_tiny_llama(folder: Path, *, context_tokens: int = 2048) -> None:
    """Two layers with random weights: the real model's arithmetic, a thousandth of its size."""

    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=258,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context_tokens,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=False,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a request gave, all of it."""

    token_ids: tuple[int, ...]
    text: str
    cached_tokens: int
    finish_reason: str


class Bench:
    """Drives an embedded core by hand, step by step."""

    def __init__(self, core: EmbeddedCore) -> None:
        self.core = core
        self.model = core.capabilities().models[0].name
        self._requests = 0

    def request(
        self,
        prompt: Sequence[int],
        *,
        namespace: str = "a",
        emitted: Sequence[int] = (),
        **sampling: Any,
    ) -> EngineRequest:
        self._requests += 1
        return EngineRequest(
            request_id=f"r{self._requests}",
            namespace=Namespace(namespace),
            chain_key=(namespace.encode() * 32)[:32],
            model=self.model,
            token_ids=tuple(prompt),
            sampling=Sampling(**{"seed": 1, "temperature": 0, "max_tokens": 6} | sampling),
            emitted=tuple(emitted),
        )

    def step(self) -> StepResult:
        """One step, after which everything must be in its place."""
        result = self.core.step()
        self.core.check_integrity()
        return result

    def drain(self) -> list[tuple[str, TokenEvent]]:
        """What comes until nothing is left to do."""
        events: list[tuple[str, TokenEvent]] = []
        while self.core.has_work():
            events += self.step().events
        return events

    def ask(self, prompt: Sequence[int], **options: Any) -> Answer:
        return self.ask_all([self.request(prompt, **options)])[0]

    def ask_all(self, requests: Sequence[EngineRequest]) -> list[Answer]:
        """Asks all at once."""
        for request in requests:
            self.core.add(request)
        events: dict[str, list[TokenEvent]] = {each.request_id: [] for each in requests}
        for name, event in self.drain():
            events[name].append(event)
        return [self.answer_of(events[each.request_id]) for each in requests]

    def answer_of(self, events: list[TokenEvent]) -> Answer:
        """Asserts what holds for every answer's events."""
        assert [event.cached_tokens is None for event in events] == [False] + [True] * (
            len(events) - 1
        )
        assert events[-1].finish_reason is not None
        return Answer(
            token_ids=tuple(token for event in events for token in event.token_ids or ()),
            text="".join(event.text for event in events),
            cached_tokens=events[0].cached_tokens or 0,
            finish_reason=events[-1].finish_reason.value,
        )

    def cold(self, prompt: Sequence[int], **options: Any) -> Answer:
        """The same with nothing cached anywhere."""
        self.core.reset()
        return self.ask(prompt, **options)


def block_bytes() -> int:
    """Memory of one block of the tiny model: keys and values, 2 layers, 2 heads of 16, float32."""
    return 2 * 2 * 16 * 2 * 16 * 4


@contextmanager
def opened(*, device: str = "cpu", threads: int = 1, **settings: Any) -> Iterator[Bench]:

    core = load_engine(EngineSettings(device=device, threads=threads, **settings))
    yield Bench(core)
    core.close()
