"""What may be said of an exception that is none of ours: its kind and where it arose.

Its message may quote what was being computed, and a message goes further than a prompt may: into
logs, and to every request that an engine was computing.
"""

from __future__ import annotations

import traceback
from pathlib import PurePath


def kind_and_place(error: BaseException) -> str:
    """As in ``RuntimeError at step.py:88``."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return type(error).__name__
    return f"{type(error).__name__} at {PurePath(frames[-1].filename).name}:{frames[-1].lineno}"
