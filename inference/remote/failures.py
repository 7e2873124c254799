"""What a server's error means to whoever asked: the errors of ``inference/errors.py``.

A message is passed on only where the request is to blame, as then it is for the client who wrote
it; it holds nothing of the request (``server.py`` takes that out).
"""

from __future__ import annotations

from inference.errors import (
    ContextOverflow,
    EngineFailed,
    EngineOverloaded,
    InferenceError,
    InvalidRequest,
    UnknownModel,
)
from inference.remote.server import ServerError, ServerRefused

OVERFLOW_WORDS = ("context length", "context size", "context window", "exceed_context")
OVERLOADED = {429, 503, 529}


def failure_of(error: ServerError, *, chat: bool) -> InferenceError:
    """What a server's error means to whoever asked."""
    if not isinstance(error, ServerRefused):
        return EngineFailed(str(error))
    words = f"{error.message} {error.code or ''}".lower()
    if error.status in {400, 413, 422}:
        if any(each in words for each in OVERFLOW_WORDS):
            return ContextOverflow(error.message, param="messages" if chat else "prompt")
        return InvalidRequest(error.message, param=error.param)
    if error.status == 404 and "model" in words:
        return UnknownModel("the inference server has no such model")
    if error.status in OVERLOADED:
        return EngineOverloaded("the inference server takes no more requests now")
    if error.status in {401, 403}:
        return EngineFailed("the inference server refuses our API key")
    return EngineFailed(str(error))
