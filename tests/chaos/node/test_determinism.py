"""One schedule gives one run, in every process, whatever Python's hash seed is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

PROGRAM = """
from chaos.modes.node.runner import run_node
from chaos.scenario.plan import plan
from chaos.scenario.scenario import Scenario, Swarm

scenario = Scenario(
    name="t", swarm=Swarm(include_probability=0.8), warm_up_s=6, duration_s=15, settle_s=10
)
for seed in (3, 4):
    run = run_node(plan(scenario, seed))
    print(run.totals.trace, len(run.events), run.totals.deliveries)
"""


def printed(hash_seed: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_fresh_processes_with_other_hash_seeds_do_the_same() -> None:
    first, second = printed("1"), printed("4711")
    assert first == second
    one, other = (line.split() for line in first.splitlines())
    assert one[0] != other[0], "another seed is another run"
    assert int(one[2]) > 100
