"""One seed is one history, in any process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def start(seed: int, hash_seed: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.simulation.scenario", str(seed)],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_one_seed_gives_one_trace_in_every_process_and_another_seed_another_trace() -> None:
    running = [start(seed, hash_seed) for seed, hash_seed in ((7, 1), (7, 2), (7, 12345), (8, 1))]
    printed = []
    for process in running:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        printed.append(output.split())
    first, second, third, other = printed
    assert first == second == third
    assert first[0] != other[0]
    _, events, chunks = first
    assert int(events) > 20
    assert int(chunks) > 200, "the trace covers what goes over the network"
