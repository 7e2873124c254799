"""``rhizome chaos``: a group whose subcommands are imported only when they are named.

Found through the entry-point group ``rhizome.commands``, so that the product never imports it.
"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Iterator
from typing import Any

import click

from chaos.errors import ChaosError
from chaos.faults.catalogue import nearest

COMMANDS = {
    "run": "chaos.commands.run",
    "explain": "chaos.commands.explain",
    "faults": "chaos.commands.faults",
    "invariants": "chaos.commands.invariants",
    "replay": "chaos.commands.replay",
    "shrink": "chaos.commands.shrink",
    "sweep": "chaos.commands.sweep",
    "heal": "chaos.commands.heal",
}
"""In the order of ``--help``; each module has its ``command``."""

EXIT_USAGE = 64
EXIT_HARNESS = 70
EXIT_INTERRUPTED = 130


class _Usage(click.UsageError):
    """A usage error with the harness's exit code."""

    exit_code = EXIT_USAGE

    def __init__(self, error: click.UsageError) -> None:
        super().__init__(error.format_message(), error.ctx)


class ChaosCommands(click.Group):
    """Gives each error of the harness its exit code, and usage errors 64."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        found = importlib.import_module(COMMANDS[cmd_name]).command
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the subcommand; where there is none, names the nearest one."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            words = f"No such command {args[0]!r}{nearest(args[0], list(COMMANDS))}."
            raise click.UsageError(words, ctx)
        return super().resolve_command(ctx, args)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:  # click's own
        try:
            return super().make_context(*args, **kwargs)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            raise click.exceptions.Exit(EXIT_USAGE) from None
        except click.UsageError as error:
            raise _Usage(error) from None

    def invoke(self, ctx: click.Context) -> Any:  # what the subcommand returns
        """Runs the subcommand. What it returns is the exit code; None is 0."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise _Usage(error) from None
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except BaseException as error:  # noqa: BLE001 - the last one there is
            ctx.exit(_code_of(error))


def _code_of(error: BaseException) -> int:
    """Says what went wrong, and gives the exit code for it."""
    causes = list(_leaves(error))
    if any(isinstance(cause, KeyboardInterrupt) for cause in causes):
        return EXIT_INTERRUPTED
    if all(isinstance(cause, ChaosError) for cause in causes):
        for cause in causes:
            click.echo(f"rhizome: {cause}", err=True)
        return max(cause.exit_code for cause in causes if isinstance(cause, ChaosError))
    if not isinstance(error, Exception):
        raise error
    click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
    click.echo("rhizome: the chaos harness itself failed (this says nothing of peers)", err=True)
    return EXIT_HARNESS


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors inside groups, or the error itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


@click.group("chaos", cls=ChaosCommands)
def command() -> None:
    """Find out whether the overlay keeps its promises while things go wrong.

    \b
    What a file does to the peers:   rhizome chaos explain partition
    Do it, and judge what happened:  rhizome chaos run partition
    With 200 random seeds:           rhizome chaos sweep swarm --seeds 0:200
    Look at a failure again:         rhizome chaos replay chaos-out/swarm/seed-17
    Make it small:                   rhizome chaos shrink chaos-out/swarm/seed-17

    \b
    Exit codes: 0 valid, 1 a promise was broken, 2 nothing was put to the test or an
    expected mark was not reached, 3 not deterministic, 64 usage, 70 the harness failed.
    """  # noqa: D301 - \b is click's mark for a block that is not rewrapped
