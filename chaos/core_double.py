"""An engine core that passes everything on: what the doubles of engines start from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from inference.core import EngineCore, StepResult
from inference.events import CacheEvent
from inference.request import Capabilities, EngineLoad, EngineRequest, Namespace, Prompt


class CoreDouble:
    """``inference.core.EngineCore`` around another one."""

    def __init__(self, inner: EngineCore) -> None:
        self.inner = inner

    def capabilities(self) -> Capabilities:
        return self.inner.capabilities()

    def tokenize(self, model: str, prompt: Prompt) -> tuple[int, ...] | None:
        return self.inner.tokenize(model, prompt)

    def add(self, request: EngineRequest) -> None:
        self.inner.add(request)

    def cancel(self, request_id: str) -> None:
        self.inner.cancel(request_id)

    def share_among(self, tenants: Iterable[Namespace]) -> None:
        self.inner.share_among(tenants)

    def step(self) -> StepResult:
        return self.inner.step()

    def has_work(self) -> bool:
        return self.inner.has_work()

    def load(self) -> EngineLoad:
        return self.inner.load()

    def cache_events(self) -> tuple[CacheEvent, ...]:
        return self.inner.cache_events()

    def drop(self, namespace: Namespace) -> None:
        self.inner.drop(namespace)

    def reset(self) -> None:
        self.inner.reset()

    def close(self) -> None:
        self.inner.close()


def layers(core: EngineCore) -> Iterator[object]:
    """A core and what is below it: doubles and taps have theirs as ``inner``."""
    part: object = core
    while part is not None:
        yield part
        part = getattr(part, "inner", None)
