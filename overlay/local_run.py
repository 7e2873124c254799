"""Runs a request on this host's engine; the ingress and the forward handler both use it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio
from msgspec import UNSET

from inference.errors import (
    ContextOverflow,
    EngineFailed,
    EngineOverloaded,
    InferenceError,
    InvalidRequest,
    PartTooSmall,
    UnknownModel,
)
from inference.request import EngineRequest, FinishReason, Namespace, TokenEvent
from overlay.forward import PART_TOO_SMALL, TOKENS_MAX, End, Tokens
from overlay.ports import Engine, TokenStream
from overlay.work import Broken, Hung, Refused, Work, request_error
from security.epoch import TenantEpoch

STALLED_LOOK_S = 0.5
"""How often an engine that says nothing is looked at."""


class LocalRun:
    """An answer under way here.

    ``prompt_tokens`` counts the rendered prompt, 0 where only the engine can tell. ``hopeless``
    says whether the engine hangs and it is better not to wait for it.
    """

    expected_start_s = 0.0
    """The engine's own queue is in what is seen of it, not in a promise."""

    def __init__(
        self,
        tokens: TokenStream,
        *,
        prompt_tokens: int,
        emitted: int,
        hopeless: Callable[[], bool],
    ) -> None:
        self._tokens = tokens
        self._hopeless = hopeless
        self.prompt_tokens = prompt_tokens
        self._completion_tokens = emitted
        self._cached_tokens = 0
        self._end: End | None = None

    async def next(self, left_s: float) -> Tokens | End:
        """The next piece of the answer, or its end. Cancelling the wait loses nothing.

        Raises:
            trio.TooSlowError: When it does not come within ``left_s``; it can be asked for again.
            Broken: When the engine fails.
            Hung: When it hangs without hope.
        """
        if self._end is not None:
            return self._end
        by_s = trio.current_time() + left_s
        while True:
            now_s = trio.current_time()
            look_s = min(by_s, now_s + STALLED_LOOK_S)
            try:
                with trio.fail_at(look_s):
                    return self._piece(await anext(self._tokens))
            except trio.TooSlowError:
                if self._hopeless():
                    raise Hung("engine_stalled", dead=True) from None
                if look_s >= by_s:
                    raise
            except EngineFailed as error:
                raise Broken("engine_failed") from error
            except StopAsyncIteration:
                raise Broken("engine_failed") from None

    def _piece(self, event: TokenEvent) -> Tokens | End:
        if event.cached_tokens is not None:
            self._cached_tokens = min(event.cached_tokens, self.prompt_tokens)
        self._completion_tokens += len(event.token_ids or ())
        if event.finish_reason is not None:
            self._end = self._end_of(event, event.finish_reason)
            nothing = not event.token_ids and not event.text and event.chunk is None
            if nothing and event.cached_tokens is None:
                return self._end
        return Tokens(
            token_ids=None if event.token_ids is None else list(event.token_ids),
            text=event.text,
            cached_tokens=None if event.cached_tokens is None else self._cached_tokens,
            chunk=UNSET if event.chunk is None else event.chunk,
            ended=UNSET if event.ended is None else event.ended.value,
        )

    def _end_of(self, event: TokenEvent, reason: FinishReason) -> End:
        """The end as the engine counts, where it counts itself."""
        usage = event.usage
        if usage is None:
            prompt, completion = self.prompt_tokens, self._completion_tokens
            cached = self._cached_tokens
        else:
            prompt, completion = usage.prompt_tokens, usage.completion_tokens
            cached = self._cached_tokens if usage.cached_tokens is None else usage.cached_tokens
        return End(
            finish_reason=reason.value,
            prompt_tokens=min(prompt, TOKENS_MAX),
            completion_tokens=min(completion, TOKENS_MAX),
            cached_tokens=max(0, min(cached, prompt, TOKENS_MAX)),
        )


@asynccontextmanager
async def run_here(
    engine: Engine, tenant: TenantEpoch, work: Work, hopeless: Callable[[], bool]
) -> AsyncIterator[LocalRun]:
    """Runs ``work`` for a tenant that this host belongs to; leaving early cancels it.

    ``hopeless`` is asked while nothing comes, as :class:`LocalRun` says.

    Raises:
        RequestError: When the request itself is wrong (bad value, longer than the context).
        Refused: When this engine does not serve it now.
        Broken: When the engine fails.
    """
    try:
        served = next((m for m in engine.capabilities().models if m.name == work.model), None)
        if served is None:
            raise Refused("unknown_model")
        if work.beyond and not served.passes_bodies:
            raise Refused("cannot_read")
        token_ids = work.token_ids
        if token_ids is None and engine.capabilities().tokenizes:
            token_ids = await engine.tokenize(work.model, work.prompt)
        if token_ids is None:
            if not served.passes_bodies:
                raise Refused("cannot_tokenize")
            token_ids = ()  # the engine reads the body itself
        request = EngineRequest(
            request_id=work.request_id,
            namespace=Namespace(work.tenant),
            chain_key=tenant.keys.chain_key,
            model=work.model,
            token_ids=token_ids,
            sampling=work.sampling,
            emitted=work.emitted,
            body=work.body,
            chat=work.chat,
            cache_salt=tenant.keys.salt.hex(),
        )
        async with engine.submit(request) as tokens:
            yield LocalRun(
                tokens,
                prompt_tokens=len(token_ids),
                emitted=len(work.emitted),
                hopeless=hopeless,
            )
    except ContextOverflow as error:
        raise request_error("context_length_exceeded", str(error), param=error.param) from error
    except InvalidRequest as error:
        raise request_error("invalid_request", str(error), param=error.param) from error
    except UnknownModel as error:
        raise Refused("unknown_model") from error
    except PartTooSmall as error:
        raise Refused(PART_TOO_SMALL) from error
    except EngineOverloaded as error:
        raise Refused("overloaded") from error
    except InferenceError as error:
        raise Broken("engine_failed") from error
