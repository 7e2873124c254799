"""Models for the tests: a tiny random one made in a moment, and the real one loaded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

TEMPLATE = (
    "{% for m in messages %}{{ '<s>' + m['role'] + ':' + m['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant:' }}{% endif %}"
)


def save_tokenizer(folder: Path) -> None:
    """A tokenizer with a token for each byte, two marks and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(["<s>", "</s>", *letters])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE
    )
    tokenizer.save_pretrained(folder)


def save_tiny_llama(folder: Path) -> None:
    """Two layers with random weights: the arithmetic of the real model, a thousandth of its size."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=258,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=False,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder)


@pytest.fixture(name="save_tokenizer")
def fixture_save_tokenizer() -> Callable[[Path], None]:
    return save_tokenizer


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    save_tiny_llama(folder)
    return folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a request gave, all of it."""

    token_ids: tuple[int, ...]
    text: str
    cached_tokens: int
    finish_reason: str


class Bench:
    """Drives an embedded core by hand, one request after the other."""

    def __init__(self, core) -> None:
        self.core = core
        self.model = core.capabilities().models[0].name
        self._requests = 0

    def request(self, prompt, *, namespace="a", emitted=(), **sampling):
        from inference.request import EngineRequest, Namespace, Sampling

        self._requests += 1
        return EngineRequest(
            request_id=f"r{self._requests}",
            namespace=Namespace(namespace),
            chain_key=namespace.encode() * 32,
            model=self.model,
            token_ids=tuple(prompt),
            sampling=Sampling(**{"seed": 1, "temperature": 0, "max_tokens": 6} | sampling),
            emitted=tuple(emitted),
        )

    def ask(self, prompt, **options) -> Answer:
        request = self.request(prompt, **options)
        self.core.add(request)
        events = []
        while self.core.has_work():
            events += [event for name, event in self.core.step().events]
        assert [event.cached_tokens is None for event in events] == [False] + [True] * (
            len(events) - 1
        )
        assert events[-1].finish_reason is not None
        return Answer(
            token_ids=tuple(token for event in events for token in event.token_ids),
            text="".join(event.text for event in events),
            cached_tokens=events[0].cached_tokens,
            finish_reason=events[-1].finish_reason.value,
        )

    def cold(self, prompt, **options) -> Answer:
        """The same with nothing cached anywhere."""
        self.core.reset()
        return self.ask(prompt, **options)


@contextmanager
def opened(**settings) -> Iterator[Bench]:
    from inference.embedded import EngineSettings, load_engine

    core = load_engine(EngineSettings(device="cpu", threads=1, **settings))
    yield Bench(core)
    core.close()


@pytest.fixture
def tiny_with(tiny_folder: Path) -> Iterator[Callable[..., Bench]]:
    """Opens tiny engines with other settings."""
    with ExitStack() as stack:

        def make(**settings) -> Bench:
            given = {"model": str(tiny_folder), "kv_cache_bytes": 4 << 20} | settings
            return stack.enter_context(opened(**given))

        yield make


@pytest.fixture
def tiny(tiny_with: Callable[..., Bench]) -> Bench:
    return tiny_with()


@pytest.fixture(scope="module")
def real() -> Iterator[Bench]:
    with opened(kv_cache_bytes=1 << 28) as made:
        yield made
