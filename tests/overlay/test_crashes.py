"""What a process leaves behind when it breaks."""

from __future__ import annotations

import subprocess
import sys

import pytest

BREAK = {
    "the main task": "raise ValueError(CANARY)",
    "a group": "raise ExceptionGroup(CANARY, [ValueError(CANARY)])",
    "a cause": "raise OSError('disk') from ValueError(CANARY)",
    "a thread": "t = threading.Thread(target=int, args=(CANARY,)); t.start(); t.join()",
    "where nobody is told": "Ends().end = 1",
}
PROGRAM = """
import threading
from overlay.crashes import say_no_more_than_places
from overlay.logs import configure_logging

CANARY = "zanzibar" + "-canary"

class Ends:
    def __del__(self):
        raise ValueError(CANARY)

configure_logging(as_json=False, level="info")
say_no_more_than_places()
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM + code]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("code", BREAK.values(), ids=BREAK.keys())
def test_whatever_breaks_is_logged_by_kind_and_place(code: str) -> None:
    ran = run(code)
    assert "zanzibar-canary" not in ran.stdout + ran.stderr
    assert "ValueError" in ran.stderr
    assert "Traceback" in ran.stderr


def test_the_process_still_fails_and_leaves_no_memory_image() -> None:
    assert run("raise ValueError(CANARY)").returncode == 1
    told = "import resource; print(resource.getrlimit(resource.RLIMIT_CORE)[0])"
    assert run(told).stdout == "0\n"
