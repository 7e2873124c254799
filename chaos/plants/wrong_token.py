"""OUTPUT: after a hit in its cache an engine says another first token."""

from __future__ import annotations

from dataclasses import replace

from chaos.core_double import CoreDouble
from chaos.invariants.invariant import Id
from chaos.plants.plant import Plant
from inference import toy_language
from inference.core import EngineCore, StepResult
from inference.request import TokenEvent

_FIRST_WORD = toy_language.END + 64
"""Tokens from here on are pieces of text, not marks."""


class _Careless(CoreDouble):
    def step(self) -> StepResult:
        result = self.inner.step()
        events = tuple((name, _changed(event)) for name, event in result.events)
        return replace(result, events=events)


def _changed(event: TokenEvent) -> TokenEvent:
    if not event.cached_tokens or not event.token_ids or event.token_ids[0] == toy_language.END:
        return event
    words = toy_language.VOCABULARY - _FIRST_WORD
    other = _FIRST_WORD + (event.token_ids[0] - _FIRST_WORD + 1) % words
    return replace(event, token_ids=(other, *event.token_ids[1:]))


class WrongToken(Plant):
    """Every node's engine."""

    name = "wrong-token-after-hit"
    invariant = Id.OUTPUT
    in_engine = True

    def engine(self, core: EngineCore) -> EngineCore:
        return _Careless(core)
