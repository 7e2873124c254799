"""What a peer leaves behind when it breaks: a place in the log, and nothing that it was working on.

Python's own tracebacks quote exceptions, and a memory image holds keys, tokens and prompts.
"""

from __future__ import annotations

import logging
import resource
import sys
import threading
from contextlib import suppress
from types import TracebackType

log = logging.getLogger(__name__)


def say_no_more_than_places() -> None:
    """Has everything that breaks in this process logged, and no image of its memory written.

    For the main task, for threads, and for what is raised where nobody can be told.
    """

    def crashed(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        log.critical("this peer failed", exc_info=(kind, error, trace))

    def thread_crashed(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            log.error("a thread failed", exc_info=args.exc_value)

    def ignored(args: sys.UnraisableHookArgs) -> None:
        if args.exc_value is not None:
            log.error("a failure was ignored", exc_info=args.exc_value)

    sys.excepthook = crashed
    threading.excepthook = thread_crashed
    sys.unraisablehook = ignored
    with suppress(OSError, ValueError):  # a system that forbids lowering it writes none either
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
