"""Scenario files: what is read, and what is said of one that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.errors import ScenarioError
from chaos.faults.link import Latency
from chaos.faults.topology import Partition
from chaos.invariants.invariant import Id
from chaos.scenario.load import find, load, parse, shipped
from chaos.scenario.plan import plan
from chaos.scenario.scenario import Landmark

WHOLE = """
schema = 1
name = "whole"
duration_s = 30
core = ["n1", "n2"]

[cluster]
nodes = 3
outside = { n3 = ["b"] }

[workload]
requests_per_s = 2.5

[[request]]
id = "mine"
at_s = 1
ingress = "n3"
tenant = "a"
document = 0
document_tokens = 32
question = 1
question_tokens = 4
max_tokens = 2

[[fault]]
kind = "latency"
at_s = 4
for_s = 6
links = ["n1>n3", "n2<>n1"]
delay_ms = 7

[[fault]]
kind = "partition"
at = "after:answered(n2)#3"
groups = [["n1"], ["n2", "n3"]]

[expect]
invariants = ["OUTPUT", "NO-WORSE"]
marks = ["remote_hit"]
"""


def test_everything_that_a_file_says_is_read() -> None:
    scenario = parse(WHOLE)
    assert scenario.cluster.nodes == 3
    assert scenario.cluster.outside == {"n3": ("b",)}
    assert scenario.workload.requests_per_s == 2.5
    assert [request.id for request in scenario.requests] == ["mine"]
    first, second = scenario.faults
    assert first.fault == Latency(delay_ms=7)
    assert (first.at, first.for_s, first.links) == (4.0, 6.0, ("n1>n3", "n2<>n1"))
    assert second.fault == Partition()
    assert second.at == Landmark("answered", "n2", 3)
    assert second.for_s is None
    assert scenario.expect.invariants == (Id.OUTPUT, Id.NO_WORSE)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("duration_s = 30", "duraton_s = 30", "x:4: duraton_s: there is no 'duraton_s' here, did"),
        ("nodes = 3", "nodes = 3\nslot = 2", "x:9: cluster, slot: there is no 'slot' here, did "),
        ("delay_ms = 7", "delay = 7", "x:30: fault 1, delay: there is no 'delay' here, did you "),
        ('"latency"', '"latensy"', "x:26: fault 1, kind: there is no fault 'latensy', did you me"),
        ("delay_ms = 7", "delay_ms = -7", "x:25: fault 1: fault latency: delay_ms must be a numb"),
        ("delay_ms = 7", 'delay_ms = "7"', "x:25: fault 1: fault latency: delay_ms must be a num"),
        ("nodes = 3", "nodes = 0", "x:8: cluster, nodes: must be from 1 to 64, not 0"),
        ("nodes = 3", "nodes = 2.5", "x:8: cluster, nodes: must be a whole number, not 2.5"),
        ("nodes = 3", "nodes = true", "x:8: cluster, nodes: must be a whole number, not True"),
        ("nodes = 3", 'network = "lopback"', "x:8: cluster, network: there is no 'lopback', did "),
        (
            "nodes = 3",
            'network = "x"',
            "x:8: cluster, network: there is no 'x'; known are loopback",
        ),
        ("at_s = 4", "at_s = 31", "x:27: fault 1, at_s: must be before the storm ends at 30 s"),
        ("at_s = 4", "at_s = nan", "x:27: fault 1, at_s: must be a number, not nan"),
        ("at_s = 4\n", "", "x:25: fault 1: say when: `at_s = 10`, or `at = "),
        ("for_s = 6", "for_s = 0", "x:28: fault 1, for_s: must be more than 0"),
        ('"n1>n3"', '"n1>n4"', "x:29: fault 1, links: there is no node 'n4' (n1 to n3)"),
        ('["n2", "n3"]]', '["n1", "n3"]]', "x:35: fault 2, groups: n1 is in two groups"),
        ("after:answered", "after:anserd", "x:34: fault 2, at: there is no event 'anserd', did"),
        ("(n2)#3", "(n9)#3", "x:34: fault 2, at: there is no node 'n9'"),
        ('"OUTPUT"', '"OUTPT"', "x:38: expect, invariants 1: there is no 'OUTPT', did you mean 'O"),
        ('"remote_hit"', '"remote_hid"', "x:39: expect, marks 1: there is no 'remote_hid', did y"),
        ('n3 = ["b"]', 'n3 = ["c"]', "x:9: cluster, outside, n3: there is no 'c'"),
        ('core = ["n1"', 'core = ["n7"', "x:5: core: there is no node 'n7'"),
        ('tenant = "a"', 'tenant = "z"', "x:18: request 1, tenant: there is no 'z'"),
        ("max_tokens = 2\n", "", "x:14: request 1: max_tokens is missing: add `max_tokens"),
        ("schema = 1", "schema = 2", "x:2: schema: this release reads schema 1, not 2"),
        ("duration_s = 30", "faults = []", "x:4: faults: write each as [[fault]]"),
        ("[cluster]", "[cluster", "x: is not TOML: "),
    ],
)
def test_what_is_wrong_is_said_with_its_line_and_the_nearest_word(
    old: str, new: str, said: str
) -> None:
    assert WHOLE.count(old) >= 1
    with pytest.raises(ScenarioError) as error:
        parse(WHOLE.replace(old, new, 1), "x")
    assert str(error.value).startswith(said)
    assert error.value.exit_code == 64


def test_an_instant_fault_has_no_duration() -> None:
    text = 'name = "x"\n[[fault]]\nkind = "reset"\nat_s = 1\nfor_s = 2\ntarget = "all"\n'
    with pytest.raises(ScenarioError, match="x:5: fault 1, for_s: reset is done at once"):
        parse(text, "x")


def test_two_faults_cannot_share_an_id() -> None:
    fault = '[[fault]]\nkind = "freeze"\nat_s = 1\ntarget = "one"\nid = "f"\n'
    with pytest.raises(ScenarioError, match="there are two faults 'f'"):
        parse(f'name = "x"\n{fault}{fault}')


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="cannot be read: No such file"):
        load(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    with pytest.raises(ScenarioError, match="is not UTF-8"):
        load(tmp_path / "latin.toml")


def test_a_shipped_file_is_found_by_its_bare_name_and_another_is_suggested() -> None:
    assert find("partition").name == "partition.toml"
    assert find("partition.toml").name == "partition.toml"
    with pytest.raises(ScenarioError, match="did you mean 'partition'"):
        find("partitoin")


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_every_shipped_file_can_be_read_and_planned(path: Path) -> None:
    scenario = load(path)
    assert scenario.name == path.stem or path.parent.name == "regressions"
    assert scenario.about
    schedule = plan(scenario, 0 if scenario.systematic else None)
    calm = {"late-joiner", "met-at-one-peer", "promise-output"}
    assert schedule.faults or scenario.swarm or scenario.name in calm


def test_the_scenarios_that_users_name_are_there() -> None:
    names = {path.stem for path in shipped()}
    users = {"latency", "partition", "stale-metadata"}
    others = {"hot-spot", "slow-network-10ms", "slow-network-50ms", "crash-storm", "long-partition"}
    others |= {"silent-peer", "late-joiner", "rolled-back-disk", "swarm", "singles", "pairs"}
    assert users | others <= names
