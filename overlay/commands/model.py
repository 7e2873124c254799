"""``rhizome model``: what this host could serve; getting more models, and removing some.

Nothing here needs a peer, nor torch, but for a conversion.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import asdict
from pathlib import Path

import click
from rich.filesize import decimal

from inference.store.convert import convert
from inference.store.files import default_cache_dir, fetch_model
from inference.store.library import Kind, StoredModel, model_at, removal_of, stored_models
from inference.store.package import MODEL_DISTRIBUTION, is_packaged, packaged_file
from overlay.commands.options import json_option, print_json
from overlay.commands.tables import print_table
from overlay.commands.watched import watched
from overlay.errors import ConfigError, LocalFault

COLUMNS = ("name", "kind", "size", "quantisation", "to serve it")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@click.group("model")
def command() -> None:
    """Models on this host: list them, fetch or convert one, remove one.

    \b
    Example: rhizome model fetch smollm2 && rhizome model list
    """  # noqa: D301 - click's mark


@command.command("list")
@json_option
def list_models(as_json: bool) -> None:  # noqa: FBT001 - click's
    """Show the models that this host could serve.

    The small one of the package, those that were converted here, and those in the hub's cache. A
    folder with safetensors, and a .gguf file, can be served from wherever it lies.

    \b
    Example: rhizome model list --json
    """  # noqa: D301 - click's mark
    cache_dir = default_cache_dir()
    models = stored_models(cache_dir)
    if as_json:
        print_json({"cache": str(cache_dir), "models": [document(each) for each in models]})
        return
    print_table(COLUMNS, map(cells, models), right="size")


@command.command("fetch")
@click.argument("name")
def fetch(name: str) -> None:
    """Get NAME: smollm2, or a model of the hub by its id.

    A model of the hub goes into the hub's cache (HF_HOME), without its other formats. What is here
    already is not fetched again; for a newer revision remove it first. A fetch that was cut off
    goes on where it ended.

    \b
    Example: rhizome model fetch smollm2
             rhizome model fetch HuggingFaceTB/SmolLM2-360M-Instruct
    """  # noqa: D301 - click's mark
    cache_dir = default_cache_dir()
    say_ready(watched(lambda say: fetch_model(name, cache_dir, say).folder))


@command.command("convert")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", metavar="NAME", help="What the model is called.  [default: as the file]")
def convert_file(file: Path, name: str | None) -> None:
    """Convert FILE, a model in GGUF, so that it starts in seconds.

    The copy is of safetensors in float32, several times the size of FILE, which is not needed
    after that. RHIZOME_CACHE says where it goes.

    \b
    Example: rhizome model convert Qwen2.5-0.5B-Instruct-Q4_K_M.gguf --name qwen
    """  # noqa: D301 - click's mark
    if name is not None:
        check_name(name)
    cache_dir = default_cache_dir()
    say_ready(watched(lambda say: convert(file.expanduser(), cache_dir, say, name=name)))


@command.command("rm")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(name: str, yes: bool) -> None:  # noqa: FBT001 - click's
    """Remove NAME, a model that was converted here or is in the hub's cache.

    A folder or file of yours is never removed, nor is an installed package.

    \b
    Example: rhizome model rm HuggingFaceTB/SmolLM2-360M-Instruct
    """  # noqa: D301 - click's mark
    removal = removal_of(name, default_cache_dir())
    model = removal.model
    size = decimal(model.size_bytes or 0)
    if not yes and not confirmed(f"Remove {model.name}, {size} in {model.path}?"):
        raise LocalFault("nothing was removed")
    removal.execute()
    click.echo(f"removed {model.name}, {size}")
    if is_packaged(model.name) and model.kind is Kind.CONVERTED and packaged_file() is not None:
        click.echo(
            "# it is converted again when it is served; the package goes with: "
            f"pip uninstall {MODEL_DISTRIBUTION}",
            err=True,
        )


def document(model: StoredModel) -> dict[str, object]:
    """A model as JSON."""
    path = None if model.path is None else str(model.path)
    return asdict(model) | {"kind": model.kind.value, "path": path}


def cells(model: StoredModel) -> tuple[str, ...]:
    """One row of the table."""
    size = "-" if model.size_bytes is None else decimal(model.size_bytes)
    if model.model is None:
        use = model.note
    else:
        use = f"--model {shlex.quote(model.model)}" + (f" ({model.note})" if model.note else "")
    return model.name, model.kind.value, size, model.quantisation, use


def check_name(name: str) -> None:
    """Raises ConfigError for a name that a converted model cannot have."""
    if not _NAME.fullmatch(name):
        raise ConfigError("--name: letters, digits, '.', '_' and '-', beginning with one of these")
    if is_packaged(name):
        raise ConfigError(f"--name: {name} is the packaged model's")


def say_ready(folder: Path) -> None:
    """Prints how to serve a model, and beside it where it is."""
    model = model_at(folder, default_cache_dir())
    name = str(folder) if model is None or model.model is None else model.model
    size = f"{decimal(model.size_bytes)} in " if model and model.size_bytes else ""
    click.echo(f"serve it:  rhizome peer --model {shlex.quote(name)}")
    click.echo(f"# {size}{folder}", err=True)


def confirmed(question: str) -> bool:
    """Asks on stderr. Raises ConfigError where nobody can answer."""
    try:
        return click.confirm(question, err=True)
    except click.Abort as error:
        if isinstance(error.__context__, EOFError):
            click.echo(err=True)
            raise ConfigError("nobody can answer here: --yes removes without asking") from None
        raise
