"""Errors of the inference side.

InferenceError
|-- InvalidRequest      the caller's request cannot be served as it stands (blame: caller)
|   `-- ContextOverflow prompt (and answer) longer than the model's context
|-- UnknownModel        the engine serves no model of that name (blame: caller)
|-- UnsupportedModel    the model cannot be run correctly here; refused at start (blame: operator)
|-- ModelMissing        no model files; the message names the command that gets them
|-- ModelBusy           another process is making or removing that model; try again later
|-- PartMissing         a library is not installed; the message names the command (blame: operator)
|-- EngineOverloaded    queue full; try elsewhere or later (blame: nobody)
|   `-- PartTooSmall    longer than the tenant's part of the cache; try elsewhere (blame: nobody)
`-- EngineFailed        the engine broke while serving (blame: nobody)
"""

from __future__ import annotations


class InferenceError(Exception):
    """Base of all errors raised by ``inference``."""


class InvalidRequest(InferenceError):
    """The request cannot be served as it stands; ``param`` names the offending field."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ContextOverflow(InvalidRequest):
    """Prompt and answer do not fit into the model's context."""


class UnknownModel(InferenceError):
    """The engine serves no model of that name."""


class UnsupportedModel(InferenceError):
    """The model has a feature that this engine would compute wrongly; the message says which."""


class ModelMissing(InferenceError):
    """No model files were found; the message names the command that gets them."""


class ModelBusy(InferenceError):
    """Another process is making or removing that model; try again later."""


class PartMissing(InferenceError):
    """A library that this needs is not installed; the message has the command that installs it."""


class EngineOverloaded(InferenceError):
    """The engine's queue is full."""


class PartTooSmall(EngineOverloaded):
    """Prompt and answer fit into the model's context and not into the tenant's part here."""


class EngineFailed(InferenceError):
    """The engine broke while serving."""
