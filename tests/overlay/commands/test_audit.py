"""``rhizome audit``: its arguments; what it runs is tested beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from overlay.audit.run import SAMPLES, SAMPLES_QUICK, SideChannels
from overlay.audit.statistics import Separation
from overlay.commands import audit
from overlay.errors import ConfigError


def found(auc: float) -> SideChannels:
    each = Separation(auc=0.5, low=0.45, high=0.55, samples=400)
    told = Separation(auc=auc, low=auc, high=auc, samples=400)
    return SideChannels(
        seed=7,
        within=told,
        across=each,
        eviction=each,
        load_shared=told,
        load_strict=each,
        eviction_shared=told,
        cached={"strict": (100, 90)},
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Seeds and samples that were asked for; what comes is what the seed is in hundredths."""
    calls: list[tuple[int, int]] = []

    def run(seed: int, samples: int) -> SideChannels:
        calls.append((seed, samples))
        return found(seed / 100)

    monkeypatch.setattr(audit, "watched_run", run)
    return calls


def test_help_shows_an_example() -> None:
    result = CliRunner().invoke(audit.command, ["side-channel", "--help"])
    assert "rhizome audit side-channel --json found.json" in result.output
    assert str(SAMPLES) in result.output


def test_it_shows_what_was_found_and_writes_it(
    asked: list[tuple[int, int]], tmp_path: Path
) -> None:
    file = tmp_path / "found.json"
    result = CliRunner().invoke(
        audit.command, ["side-channel", "--seed", "95", "--json", str(file)]
    )
    assert result.exit_code == 0, result.output
    assert asked == [(95, SAMPLES)]
    assert "100 tokens" in " ".join(result.output.split())
    assert json.loads(file.read_text())["within_tenant"]["auc"] == 0.95


def test_a_rule_that_does_not_hold_is_an_error_but_not_of_a_quick_run(
    asked: list[tuple[int, int]],
) -> None:
    result = CliRunner().invoke(audit.command, ["side-channel", "--seed", "60"])
    assert result.exit_code == 1
    assert "must work" in result.output
    result = CliRunner().invoke(audit.command, ["side-channel", "--seed", "60", "--quick"])
    assert result.exit_code == 0
    assert "judge nothing" in result.output
    assert asked == [(60, SAMPLES), (60, SAMPLES_QUICK)]


def test_a_file_that_cannot_be_written_is_told_before_half_an_hour_has_passed(
    asked: list[tuple[int, int]], tmp_path: Path
) -> None:
    words = ["side-channel", "--json", str(tmp_path / "none" / "found.json")]
    result = CliRunner().invoke(audit.command, words)
    assert isinstance(result.exception, ConfigError)
    assert asked == []
