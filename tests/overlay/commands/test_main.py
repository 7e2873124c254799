"""The command line itself: help, misuse, and errors in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from inference.errors import ModelMissing
from overlay.commands.main import ORDER, cli, leaves, message_of
from overlay.errors import ConfigError, HomeError
from tests.overlay.commands.terminal import ROOT, Ran, rhizome

GROUPS = {
    "tenant": ("list", "create", "add", "remove", "rotate"),
    "token": ("create",),
    "ca": ("export", "root seal", "root rotate", "root status", "issuer renew", "issuer status"),
    "model": ("list", "fetch", "convert", "rm"),
    "audit": ("side-channel",),
}
COMMANDS = [
    *((name,) for name in ORDER if name not in GROUPS),
    *((name, *each.split()) for name, names in GROUPS.items() for each in names),
]


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> Ran:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(cli, "main", fail)
    return rhizome()


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_help_of_every_command_has_an_example(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, [*words, "--help"])
    assert result.exit_code == 0
    assert f"Example: rhizome {' '.join(words)}" in result.output


def test_help_lists_every_command_in_the_order_in_which_a_newcomer_needs_them() -> None:
    context = click.Context(cli)
    assert cli.list_commands(context) == [*ORDER, "chaos"], "those of other packages come last"
    assert all(cli.get_command(context, name) is not None for name in ORDER)
    assert cli.get_command(context, "nothing") is None


def test_help_of_peer_shows_every_default_with_its_unit() -> None:
    text = " ".join(CliRunner().invoke(cli, ["peer", "--help"]).output.split())
    for words in (
        "--port NUMBER TCP port of the overlay; 0: any, printed. [default: 7401]",
        "[default: 7402]",
        "[default: 127.0.0.1:7403]",
        "--drain DURATION How long a stopping peer lets its running requests finish.",
        "[default: 1GiB on a CPU, 85 % of what the weights leave free on a GPU]",
        "[default: 30s]",
    ):
        assert words in text


def test_an_expected_failure_is_one_line_and_says_by_its_code_whose_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert failing(monkeypatch, HomeError("no peer")).failed(1) == "no peer"
    assert failing(monkeypatch, ConfigError("no unit")).failed(2) == "no unit"
    assert failing(monkeypatch, ModelMissing("no model")).failed(1) == "no model"
    several = ExceptionGroup("", [HomeError("a"), ExceptionGroup("", [HomeError("a")])])
    assert failing(monkeypatch, several).failed(1) == "a"


def test_a_failure_of_the_system_is_told_without_its_number() -> None:
    assert message_of(OSError(98, "cannot listen")) == "cannot listen"
    assert message_of(OSError("no number")) == "no number"
    assert "/some/file" in message_of(OSError(13, "Permission denied", "/some/file"))
    assert message_of(HomeError("two\nlines")) == "two lines"


def test_an_interrupt_ends_with_the_code_that_shells_expect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert failing(monkeypatch, KeyboardInterrupt()).code == 130
    assert failing(monkeypatch, BaseExceptionGroup("", [KeyboardInterrupt()])).code == 130
    assert failing(monkeypatch, click.exceptions.Abort()).code == 130


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        failing(monkeypatch, ZeroDivisionError())
    with pytest.raises(ExceptionGroup):
        failing(monkeypatch, ExceptionGroup("", [HomeError("a"), ZeroDivisionError()]))


def test_leaves_of_groups_come_in_order() -> None:
    a, b = ValueError("a"), ValueError("b")
    group = ExceptionGroup("", [ExceptionGroup("", [a]), b])
    assert list(leaves(group)) == [a, b]
    assert list(leaves(a)) == [a]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("zzz",), "No such command 'zzz'."),
        (("staus",), "No such command 'staus'. Did you mean 'status'?"),
        (("token", "creat"), "Did you mean 'create'?"),
        (("--hlep",), "--help"),
        (("explain", "--tenat", "x"), "--tenant"),
        (("status", "--jsn"), "--json"),
        (("peer", "--polcy", "cost"), "--policy"),
        (("ask", "hi", "--max-tokens", "0"), "--max-tokens"),
        (("ask", "hi", "--temperature", "3"), "--temperature"),
        (("join",), "TICKET"),
    ],
)
def test_misuse_names_what_is_meant(words: tuple[str, ...], hint: str) -> None:
    ran = rhizome(*words)
    assert ran.code == 2
    assert hint in ran.err
    assert "Traceback" not in ran.err


def test_a_demo_whose_report_could_not_be_written_is_refused_before_it_runs(
    tmp_path: Path,
) -> None:
    line = rhizome("demo", "--json", str(tmp_path / "none" / "demo.json")).failed(2)
    assert line == f"--json: {tmp_path}/none is no folder that can be written to"


def test_the_program_runs_as_a_module_and_imports_no_model_code(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.argv = ['rhizome', 'status']\n"
        "from overlay.commands.main import main\n"
        "try:\n    main()\n"
        "finally:\n    print(sorted({'torch', 'transformers'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "RHIZOME_HOME": str(tmp_path / "none")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 1
    assert done.stdout == "[]\n"
    assert done.stderr.startswith(f"rhizome: there is no {tmp_path}/none: run 'rhizome init'")
