"""What the same requests would have done without an overlay: ground truth of OUTPUT and NO-WORSE.

``tokens``: what a cold toy engine answers, which is a function of the request's tokens alone.
``ttft_s``: the requests that an ingress took, at that node's own engine with its cache and queue,
as a discrete-event simulation in the engine's virtual time; no fault ever touches it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from chaos.run import Twin
from inference import toy_language
from inference.errors import InferenceError
from inference.request import BLOCK_TOKENS, EngineRequest, Namespace, Sampling
from inference.toy import ToyConfig, ToyEngine

CHAIN_KEY = bytes(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinRequest:
    """One request as its ingress got it. ``left_s`` is when its client went away, if it did.

    ``alone``: its ingress's own engine could have answered it.
    """

    id: str
    at_s: float
    ingress: str
    tenant: str
    token_ids: tuple[int, ...]
    max_tokens: int
    left_s: float | None = None
    seed: int = 1
    alone: bool = True


def twin_of(
    requests: Sequence[TwinRequest],
    toy_of: Callable[[str], ToyConfig],
    cold_s: Mapping[str, Sequence[float]] | None = None,
) -> Twin:
    """Runs the twin.

    Args:
        requests: What it is asked.
        toy_of: Gives a node's engine while nothing ails it.
        cold_s: For each node the times at which its cache is emptied (``chaos/cold.py``).
    """
    cold_s = cold_s or {}
    cold = _Cold()
    tokens = {
        each.id: found for each in requests if (found := cold.tokens(each, toy_of)) is not None
    }
    ttft_s: dict[str, float] = {}
    for ingress in dict.fromkeys(each.ingress for each in requests):
        own = sorted(
            (each for each in requests if each.ingress == ingress and each.alone),
            key=lambda each: each.at_s,
        )
        engine = ToyEngine(toy_of(ingress))
        ttft_s.update(first_tokens(own, engine, cold_s.get(ingress, ())))
    return Twin(tokens=tokens, ttft_s=ttft_s)


class _Cold:
    """Answers of engines that have served nothing else; the same prompt is asked once."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], tuple[int, ...] | None] = {}

    def tokens(
        self, request: TwinRequest, toy_of: Callable[[str], ToyConfig]
    ) -> tuple[int, ...] | None:
        """The whole answer; None where the engine refuses the request."""
        config = toy_of(request.ingress)
        key = (request.token_ids, request.max_tokens, config.context_tokens, config.total_blocks)
        if key not in self._known:
            self._known[key] = _answer(request, config)
        return self._known[key]


def _answer(request: TwinRequest, config: ToyConfig) -> tuple[int, ...] | None:
    """What the toy's language says: without a cache and others there is nothing else to run."""
    context_tokens = min(config.context_tokens, config.total_blocks * BLOCK_TOKENS)
    if not request.token_ids or len(request.token_ids) + request.max_tokens > context_tokens:
        return None
    speaker = toy_language.Speaker(seed=None, end_every=config.end_every)
    speaker.hear(request.token_ids)
    found: list[int] = []
    while len(found) < request.max_tokens and found[-1:] != [toy_language.END]:
        found.append(speaker.say())
    return tuple(found)


def first_tokens(
    requests: Iterable[TwinRequest], engine: ToyEngine, cold_s: Sequence[float] = ()
) -> Mapping[str, float]:
    """Seconds to the first token of each request at one engine, in the order of their times.

    A request that the engine refuses, or whose client leaves before, has none. At each time of
    ``cold_s`` the engine loses what no request uses.
    """
    waiting = list(requests)
    leaving = sorted(
        ((each.left_s, each.id) for each in waiting if each.left_s is not None), reverse=True
    )
    waiting.reverse()
    emptied = sorted(cold_s, reverse=True)
    came_s: dict[str, float] = {}
    found: dict[str, float] = {}
    now_s = 0.0
    while waiting or engine.has_work():
        if not engine.has_work():
            now_s = max(now_s, waiting[-1].at_s)
        while emptied and emptied[-1] <= now_s:
            emptied.pop()
            engine._cache.evict_all()
        while waiting and waiting[-1].at_s <= now_s:
            request = waiting.pop()
            try:
                engine.add(_engine_request(request))
            except InferenceError:
                continue
            came_s[request.id] = request.at_s
        while leaving and leaving[-1][0] <= now_s:
            engine.cancel(leaving.pop()[1])
        if not engine.has_work():
            continue
        result = engine.step()
        now_s += result.virtual_s
        for request_id, event in result.events:
            if event.token_ids and request_id not in found:
                found[request_id] = now_s - came_s[request_id]
        engine.cache_events()
    return found


def _engine_request(request: TwinRequest) -> EngineRequest:
    return EngineRequest(
        request_id=request.id,
        model="toy",
        token_ids=request.token_ids,
        namespace=Namespace(request.tenant),
        chain_key=CHAIN_KEY,
        sampling=Sampling(temperature=0.0, seed=request.seed, max_tokens=request.max_tokens),
    )


__all__ = ["TwinRequest", "first_tokens", "twin_of"]
