"""Runs of swarm seeds in fresh processes, with a hash seed of one's choice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import sys
from chaos.faults.fault import Mode
from chaos.modes.registry import run
from chaos.scenario.plan import plan
from chaos.scenario.scenario import Scenario, Swarm

scenario = Scenario(
    name="t",
    mode=Mode(sys.argv[1]),
    swarm=Swarm(include_probability=0.8),
    warm_up_s=6,
    duration_s=15,
    settle_s=10,
)
for seed in (3, 4):
    done = run(plan(scenario, seed))
    print(done.totals.trace, len(done.events), done.totals.deliveries)
"""


def printed(mode: str, hash_seed: str) -> str:
    """Trace, events and deliveries of two seeds, one a line."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, mode],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
