"""Each planted bug, in a small cluster: its own invariant is violated, and no other."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import msgspec
import pytest

from chaos.examine import examine
from chaos.faults.fault import Mode
from chaos.invariants.catalogue import CHECKS, Check, check_of
from chaos.invariants.invariant import Id, Status
from chaos.modes.live.tag import PREFIX
from chaos.plants.catalogue import PLANTS
from chaos.scenario.load import load, parse
from chaos.scenario.plan import plan
from chaos.verdict import Judged, Verdict
from overlay.commands.main import main

ROOT = Path(__file__).resolve().parents[3]

SMALL = """
name = "small"
warm_up_s = 6
duration_s = 16
settle_s = 32

[cluster]
nodes = 3
{cluster}

[workload]
requests_per_s = 4
documents = 3
document_tokens = 320
max_tokens = 16
{workload}
"""

FORGED = """
[[fault]]
kind = "forged_signature"
at_s = 1
for_s = 12
target = "n3"
every_ms = 300
"""

CUT = """
[[fault]]
kind = "stream_cut"
at_s = 1
for_s = 14
target = "n2,n3"
after_tokens = 3
"""

EMPTIED = """
[[fault]]
kind = "eviction_storm"
at_s = 3
for_s = 12
target = "all"
every_ms = 4000
"""

APART = """
[[fault]]
kind = "partition"
at_s = 2
for_s = 10
groups = [["n1"], ["n2", "n3"]]
"""

FAULTS = {
    "unsigned-records": FORGED,
    "late-evictions": EMPTIED,
    "no-repairs": APART,
    "token-twice-on-resume": CUT,
    "no-second-try": CUT,
}
CLUSTER = {"dearest-first": "slow = { n3 = 6.0 }"}
WORKLOAD = {
    "endless-cancel": "cancel_fraction = 0.3",
    "token-twice-on-resume": "hot_fraction = 0.7",
    "late-evictions": "hot_fraction = 0.7",
}

SIMULATED = [check for check in CHECKS if check.plant in PLANTS and not PLANTS[check.plant].live]


def tried(name: str, *, planted: bool, seed: int = 3) -> Judged:
    text = SMALL.format(cluster=CLUSTER.get(name, ""), workload=WORKLOAD.get(name, ""))
    scenario = parse(text + FAULTS.get(name, ""))
    return examine(plan(scenario, seed), plant=name if planted else None)


def violated(judged: Judged) -> list[Id]:
    return [each.invariant for each in judged.findings if each.status is Status.VIOLATED]


@pytest.mark.parametrize("name", [check.plant for check in SIMULATED])
def test_a_planted_bug_breaks_its_own_invariant_and_no_other(name: str) -> None:
    judged = tried(name, planted=True)
    assert violated(judged) == [PLANTS[name].invariant]
    assert judged.run.plant == name
    found = next(each for each in judged.findings if each.status is Status.VIOLATED)
    assert found.witnesses[0].events


@pytest.mark.parametrize("name", sorted({*FAULTS, *CLUSTER, *WORKLOAD, "old-heads"}))
def test_without_the_bug_the_same_run_is_valid(name: str) -> None:
    judged = tried(name, planted=False)
    assert judged.verdict is Verdict.VALID, judged.findings


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id.value)
def test_each_check_names_a_bug_that_is_planted_for_it_and_a_scenario_that_proves_it(
    check: Check,
) -> None:
    plant, scenario = PLANTS[check.plant], load(ROOT / check.scenario)
    assert plant.name == check.plant
    assert plant.invariant is scenario.proves
    assert check_of(plant.invariant) is check
    assert (scenario.mode is Mode.LIVE) == plant.live
    assert plant.about.startswith(plant.invariant.value)


def rhizome(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of a whole command line."""
    monkeypatch.setattr(sys, "argv", ["rhizome", "chaos", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(("planted", "exit_code"), [(False, 0), (True, 1)])
def test_the_command_switches_a_bug_on_and_exits_with_what_it_broke(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, planted: bool, exit_code: int
) -> None:
    file, out, name = tmp_path / "small.toml", tmp_path / "out", "cache-without-tenant"
    file.write_text(SMALL.format(cluster="", workload=""), encoding="utf-8")
    options = ["--plant", name] if planted else []
    assert rhizome(monkeypatch, "run", str(file), *options, "--out", str(out)) == exit_code
    data = msgspec.json.decode((out / "result.json").read_bytes())
    assert data["plant"] == (name if planted else None)
    assert (out / "failure.json").exists() == planted


def test_an_unknown_bug_is_refused_with_the_nearest_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rhizome(monkeypatch, "run", "promise-tenant", "--plant", "cache-without-tenants") == 64
    assert "cache-without-tenant" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "plant"), [("promise-clean", "old-heads"), ("swarm", "socket-left")]
)
def test_a_bug_of_another_mode_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: str, plant: str
) -> None:
    assert rhizome(monkeypatch, "run", file, "--plant", plant) == 64
    assert plant in capsys.readouterr().err


def test_the_bug_of_live_mode_leaves_a_socket_of_the_first_peer(tmp_path: Path) -> None:
    paths = [tmp_path / "n1.sock", tmp_path / "n2.sock"]
    PLANTS["socket-left"].leave_behind(paths)
    assert [path.is_socket() for path in paths] == [True, False]


LIVE = """
name = "small-live"
mode = "live"
warm_up_s = 3
duration_s = 3
settle_s = 10

[cluster]
nodes = 2

[workload]
requests_per_s = 2

[expect]
invariants = ["CLEAN", "LIVE"]
"""


@pytest.mark.processes
def test_what_real_processes_leave_behind_is_found() -> None:
    judged = examine(plan(parse(LIVE), 1), plant="socket-left")
    assert violated(judged) == [Id.CLEAN]
    assert not list(Path(tempfile.gettempdir()).glob(f"{PREFIX}{os.getpid()}-*"))
