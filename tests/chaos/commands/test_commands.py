"""``rhizome chaos`` as a person types it; what is run here are real simulated peers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from click.testing import CliRunner

from chaos.commands.main import COMMANDS
from chaos.faults.catalogue import FAULTS
from chaos.invariants.invariant import Id
from chaos.scenario.load import load, parse
from overlay.commands.main import cli
from tests.chaos import fakes
from tests.overlay.commands import terminal
from tests.overlay.commands.terminal import Ran, rhizome

ROOT = Path(__file__).resolve().parent.parent.parent.parent

TINY = """
name = "tiny"
about = "Two peers and one slow link."
warm_up_s = 4
duration_s = 6
settle_s = 6

[cluster]
nodes = 2

[workload]
requests_per_s = 2

[[fault]]
kind = "latency"
at_s = 1
for_s = 3
target = "all"
delay_ms = 40
"""


def chaos(*words: str) -> Ran:
    return rhizome("chaos", *words)


@pytest.fixture(autouse=True)
def time_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole clusters take longer than a question to one peer."""
    monkeypatch.setattr(terminal, "COMMAND_S", 180)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs follow the rule of ``tests.chaos.fakes``."""
    for name in ("run", "replay", "shrink"):
        module = __import__(f"chaos.commands.{name}", fromlist=["examine"])
        monkeypatch.setattr(module, "examine", fakes.examine)


def test_the_group_is_an_entry_point_and_the_product_does_not_import_it() -> None:
    names = [point.value for point in entry_points(group="rhizome.commands", name="chaos")]
    assert set(names) == {"chaos.commands.main:command"}
    code = (
        "import sys; from overlay.commands.main import cli; cli.get_command(None, 'status'); "
        "sys.exit(any(name.split('.')[0] == 'chaos' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_has_an_example(name: str) -> None:
    result = CliRunner().invoke(cli, ["chaos", name, "--help"])
    assert result.exit_code == 0
    assert f"Example: rhizome chaos {name}" in result.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("rnu",), "No such command 'rnu', did you mean 'run'?"),
        (("run",), "Missing argument 'FILE'"),
        (("run", "x", "--sed", "1"), "No such option"),
        (("run", "partition", "--mode", "nod"), "Invalid value for '--mode'"),
        (("sweep", "partition", "--for", "5x"), "--for: "),
        (("run", "partitoin"), "did you mean 'partition'?"),
        (("sweep", "partition", "--seeds", "5:1"), "seeds are written 0:500"),
        (("run", "partition", "--plant", "nothing"), "there is no planted bug 'nothing'"),
        (("faults", "latensy"), "there is no fault 'latensy', did you mean 'latency'?"),
        (("replay", "/nonexistent"), "cannot be read"),
        (("explain", "singles", "--seed", "1000000"), "schedules: take a seed from 0 to"),
    ],
    ids=" ".join,
)
def test_misuse_ends_with_64_and_says_what_to_do(words: tuple[str, ...], said: str) -> None:
    ran = chaos(*words)
    assert ran.code == 64
    assert said in ran.err
    assert "Traceback" not in ran.err


def test_faults_are_listed_and_shown_with_an_entry_that_can_be_used() -> None:
    listed = chaos("faults").worked().out
    assert all(fault.kind in listed for fault in FAULTS)
    data = chaos("faults", "--json").worked().json
    assert [each["kind"] for each in data] == [fault.kind for fault in FAULTS]
    assert all(each["about"] and each["modes"] for each in data)
    for fault in FAULTS:
        shown = chaos("faults", fault.kind).worked().out
        entry = shown.partition("In a scenario:")[2]
        scenario = parse(f'name = "x"\n{entry}')
        assert scenario.faults[0].fault == fault()


def test_invariants_are_printed_for_machines_and_people() -> None:
    data = chaos("invariants", "--json").worked().json
    assert [each["id"] for each in data] == [each.value for each in Id]
    assert all(set(each) == {"id", "statement", "plant", "scenario"} for each in data)
    assert all(each["scenario"].startswith("chaos/scenarios/") for each in data)
    assert "NO-WORSE" in chaos("invariants").worked().out


def test_explain_shows_the_plan_and_writes_it_without_a_draw(tiny: Path) -> None:
    text = chaos("explain", str(tiny), "--seed", "5").worked().out
    assert "mode node, seed 5" in text
    assert "4 s warm-up, 6 s storm, heal all, 6 s to settle" in text
    assert re.search(r"latency-1 +latency +1 s +3 s +all links +delay_ms 40", text)
    written = chaos("explain", "swarm", "--seed", "5", "--toml").worked().out
    data = chaos("explain", "swarm", "--seed", "5", "--json").worked().json
    scenario = parse(written)
    assert [entry.id for entry in scenario.faults] == [fault["id"] for fault in data["faults"]]
    assert len(scenario.requests) == len(data["requests"])


def test_explain_says_which_faults_a_mode_cannot_do() -> None:
    text = chaos("explain", "stale-metadata", "--mode", "core").worked().out
    assert "unsupported in mode core" in text


def test_explain_says_what_joins_real_peers_and_which_faults_that_cannot_do() -> None:
    on_packets = chaos("explain", "live-namespaces").worked().out
    assert "mode live over namespaces, seed 1" in on_packets
    assert "unsupported" not in on_packets
    on_bytes = chaos("explain", "live-links").worked().out
    assert "mode live over loopback, seed 1" in on_bytes
    assert "live (namespaces)" in chaos("faults", "loss").worked().out
    assert chaos("faults", "slice", "--json").worked().json[0]["networks"] == ["loopback"]


def test_run_judges_real_peers_and_keeps_the_files(tiny: Path, tmp_path: Path) -> None:
    ran = chaos("run", str(tiny), "--out", str(tmp_path / "out")).worked()
    assert re.search(r"storm +6\.0 s; requests: \d+ ok", ran.out)
    assert re.search(r"latency-1 +all links +1 s +yes +\d+ +yes", ran.out)
    assert "1 scheduled, 1 applied, 1 had effect, 1 undone" in ran.out
    assert "\nvalid\n" in ran.out
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["verdict"] == "valid"
    assert load(tmp_path / "out" / "schedule.toml").faults[0].fault.kind == "latency"


def test_run_prints_one_document_with_json(tiny: Path, tmp_path: Path) -> None:
    ran = chaos("run", str(tiny), "--json", "--out", str(tmp_path / "out")).worked()
    assert ran.json["verdict"] == "valid"


def test_run_twice_makes_one_trace_in_three_processes(tiny: Path, tmp_path: Path) -> None:
    ran = chaos("run", str(tiny), "--twice", "--out", str(tmp_path / "out"))
    assert ran.code == 0, ran
    assert "deterministic: three processes made the same trace" in ran.out


@pytest.mark.usefixtures("faked")
def test_run_that_differs_in_a_fresh_process_ends_with_3(tiny: Path, tmp_path: Path) -> None:
    ran = chaos("run", str(tiny), "--twice", "--out", str(tmp_path / "out"))
    assert ran.code == 3
    assert "one schedule made different traces" in ran.err


@pytest.mark.usefixtures("faked")
def test_a_violation_is_shown_replayed_and_shrunk(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    ran = chaos("run", str(tiny), "--out", str(folder))
    assert ran.code == 1
    for words in ("OUTPUT violated", "request r3", "expected  1 2 3", "found     1 2 4"):
        assert words in ran.out
    assert ran.out.count("fact ") == 2
    assert "the five events before" in ran.out
    assert f"rhizome chaos replay {folder / 'failure.json'}" in ran.out
    again = chaos("replay", str(folder))
    assert again.code == 1
    assert "same trace as then; 1 of 1 runs violated OUTPUT" in again.out
    assert chaos("replay", str(folder), "--json").json["same_trace"] is True
    ran = chaos("shrink", str(folder)).worked()
    assert "events became 2" in ran.out
    small = load(folder / "shrunk" / "schedule.toml")
    assert [entry.fault.kind for entry in small.faults] == ["latency"]
    assert [request.id for request in small.requests] == ["r3"]
    ran = chaos("run", str(folder / "shrunk" / "schedule.toml"), "--out", str(tmp_path / "small"))
    assert ran.code == 1


@pytest.mark.usefixtures("faked")
def test_a_broken_harness_ends_with_70(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text('name = "broken"\n[[fault]]\nkind = "kill9"\nat_s = 1\ntarget = "one"\n')
    ran = chaos("run", str(path), "--out", str(tmp_path / "out"))
    assert ran.code == 70
    assert "BrokenHarness: as it was asked to" in ran.err
    assert "the chaos harness itself failed" in ran.err


@pytest.mark.usefixtures("faked")
def test_marks_that_are_not_reached_make_the_verdict_unknown(tmp_path: Path) -> None:
    path = tmp_path / "marks.toml"
    path.write_text('name = "marks"\n[expect]\nmarks = ["resumed"]\n')
    ran = chaos("run", str(path), "--out", str(tmp_path / "out"))
    assert ran.code == 2
    assert "unknown: these marks were not reached: resumed" in ran.out


def test_sweep_runs_seeds_in_child_processes(tiny: Path, tmp_path: Path) -> None:
    words = ("sweep", str(tiny), "--seeds", "0:2", "--twice-every", "2")
    ran = chaos(*words, "--out", str(tmp_path / "out")).worked()
    assert "2 of 2 tries" in ran.out
    assert "run twice: 1, not deterministic: 0" in ran.out
    data = chaos(*words, "--out", str(tmp_path / "out"), "--json").worked().json
    assert data["coverage"]["verdicts"] == {"valid": 2}
