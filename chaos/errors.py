"""Errors of the harness, each with the exit code that ``rhizome chaos`` gives for it."""

from __future__ import annotations


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
