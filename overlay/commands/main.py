"""The ``rhizome`` command. Subcommands come from the entry-point group ``rhizome.commands``."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points, version

import click

from inference.errors import InferenceError
from overlay.clones import ClonedHost
from overlay.errors import ConfigError, OverlayError
from security.errors import SecurityError

GROUP = "rhizome.commands"
ORDER = (
    *("demo", "init", "peer", "invite", "join", "leave", "ask", "status", "explain", "tenant"),
    *("token", "revoke", "ca", "model", "audit"),
)
"""The order of ``--help``: that in which a newcomer needs them; others follow by name."""

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_CLONED = 3
"""``rhizome peer`` alone: starting it again does not help before the copy is gone."""


class Commands(click.Group):
    """Loads a subcommand only when it is named, so that none pays for the others' imports."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        names = {point.name for point in entry_points(group=GROUP)}
        return [n for n in ORDER if n in names] + sorted(names.difference(ORDER))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        for point in entry_points(group=GROUP, name=cmd_name):
            command = point.load()
            if isinstance(command, click.Command):
                return command
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the subcommand; where there is none, names the nearest one."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            if not near or args[0].startswith("-"):
                raise
            words = f"No such command {args[0]!r}. Did you mean {near[0]!r}?"
            raise click.UsageError(words, ctx) from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("rhizome"), prog_name="rhizome")
def cli() -> None:
    """Serve language models from the hosts of a LAN, each request where it ends soonest.

    \b
    On the first host:   rhizome init && rhizome peer
    On the next host:    rhizome join TICKET && rhizome peer   (TICKET from `rhizome invite`)
    Anywhere:            rhizome ask "What is a prefix cache?"
    """  # noqa: D301 - \b is click's mark for a block that is not rewrapped


def main() -> None:
    """Runs the command line; every expected failure is one line on stderr."""
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BaseException as error:
        causes = list(leaves(error))
        if causes and all(isinstance(cause, KeyboardInterrupt) for cause in causes):
            sys.exit(130)
        if not causes or not all(expected(cause) for cause in causes):
            raise
        for line in dict.fromkeys(map(message_of, causes)):
            click.echo(f"rhizome: {line}", err=True)
        sys.exit(exit_code_of(causes))
    sys.exit(code if isinstance(code, int) else 0)


def exit_code_of(causes: Sequence[BaseException]) -> int:
    """How a failure is told to scripts."""
    if any(isinstance(cause, ClonedHost) for cause in causes):
        return EXIT_CLONED
    usage = any(isinstance(cause, ConfigError) for cause in causes)
    return EXIT_USAGE if usage else EXIT_FAILED


def expected(error: BaseException) -> bool:
    """Whether a user can act on an error, so that its message is all there is to say."""
    return isinstance(error, OverlayError | SecurityError | InferenceError | OSError)


def message_of(error: BaseException) -> str:
    """An error in one line; the system's own without its number."""
    if isinstance(error, OSError) and error.filename is None and error.strerror:
        return error.strerror
    return " ".join(str(error).split("\n"))


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors inside groups, or the error itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error
