"""Errors of the harness, each with the exit code that ``rhizome chaos`` gives for it."""

from __future__ import annotations

from collections.abc import Iterator


class ChaosError(Exception):
    """Base of the harness's own errors: a fault of the harness, not of what it tests."""

    exit_code = 70


class ScenarioError(ChaosError):
    """A scenario, schedule or selector is wrong; the message says where and what to do."""

    exit_code = 64


class NotDeterministic(ChaosError):
    """Two runs of one seed gave different histories."""

    exit_code = 3


class Unsupported(ChaosError):
    """A mode cannot do what was asked of it."""

    exit_code = 64


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors inside groups, or the error itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


def innermost(error: BaseException) -> str:
    """The first error of a group, in one line."""
    first = next(leaves(error))
    return f"{type(first).__name__}: {first}"[:300]
