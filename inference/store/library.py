"""The models that this host could serve: the packaged one, those converted here, the hub's cache.

A folder that a user keeps elsewhere is a model too, but only its owner knows of it: it is neither
listed nor removed.
"""

from __future__ import annotations

import difflib
import enum
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from inference.errors import ModelMissing
from inference.store.converted import (
    Converted,
    converted_models,
    find_converted,
    handles,
    remove_converted,
)
from inference.store.hub import hub_models, remove_from_hub
from inference.store.package import (
    FETCH_COMMAND,
    MODEL_DISTRIBUTION,
    MODEL_REQUIREMENT,
    SMALL_ALIAS,
    SMALL_MODEL,
    SMALL_QUANTISATION,
    SMALL_SHA256,
    is_packaged,
    packaged_file,
)

FOLDER_CHARS_MAX = 4096


class Kind(enum.Enum):
    """Where a model is from."""

    PACKAGE = "package"
    CONVERTED = "converted"
    HUB = "hub"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """One model.

    ``model`` is what ``--model`` takes for it; None where it cannot be served as it is: then
    ``note`` has the command to run. ``size_bytes`` is what it takes on disk, None where it is not
    there. ``source`` says what it was made of: a package, the SHA-256 of a GGUF file, a hub id.
    """

    name: str
    kind: Kind
    model: str | None
    note: str = ""
    size_bytes: int | None
    quantisation: str
    path: Path | None
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """What would be removed; nothing is until ``execute`` is called."""

    model: StoredModel
    execute: Callable[[], None]


def stored_models(cache_dir: Path) -> list[StoredModel]:
    """Every model, the packaged one first, then by kind and name."""
    converted = converted_models(cache_dir)
    called = handles(converted)
    rows = [_row_of(each, called[each.folder]) for each in converted]
    return [*_packaged(rows), *rows, *_from_hub()]


def model_at(folder: Path, cache_dir: Path) -> StoredModel | None:
    """The model whose files are in a folder."""
    return next((each for each in stored_models(cache_dir) if each.path == folder), None)


def model_names(cache_dir: Path) -> list[str]:
    """Every name that ``--model`` takes here."""
    named = [SMALL_ALIAS, SMALL_MODEL]
    named += [each.model for each in stored_models(cache_dir) if each.model]
    return list(dict.fromkeys(named))


def did_you_mean(wanted: str, cache_dir: Path) -> str:
    """Names close to one that is not there, as a part of a sentence; empty without any."""
    spoken = {name.lower(): name for name in model_names(cache_dir)}
    for name in tuple(spoken.values()):
        spoken.setdefault(name.rpartition("/")[2].lower(), name)
    near = difflib.get_close_matches(wanted.lower(), spoken, n=2, cutoff=0.6)
    meant = dict.fromkeys(spoken[each] for each in near)
    return f", did you mean {' or '.join(meant)}?" if meant else ""


def removal_of(name: str, cache_dir: Path) -> Removal:
    """What removing a model would take away.

    Args:
        name: A name of :func:`stored_models`, or what its ``model`` is.
        cache_dir: Where converted models are kept.

    Raises:
        ModelMissing: There is none, or it is not ours to remove; the message says what to do.
    """
    rows = stored_models(cache_dir)
    made = _converted_of(name, cache_dir)
    if made is not None:
        row = next(each for each in rows if each.path == made.folder)
        return Removal(model=row, execute=partial(remove_converted, made))
    for row in rows:
        if row.kind is Kind.HUB and row.name == name:
            return Removal(model=row, execute=partial(remove_from_hub, name))
    if is_packaged(name) and packaged_file() is not None:
        raise ModelMissing(
            f"{SMALL_MODEL} is an installed package: pip uninstall {MODEL_DISTRIBUTION}"
        )
    if len(name) < FOLDER_CHARS_MAX and Path(name).expanduser().exists():
        raise ModelMissing(f"{name} is a file or folder of yours: rm takes a name of the list")
    near = did_you_mean(name, cache_dir)
    raise ModelMissing(f"no model {name!r} here{near or ': see rhizome model list'}")


def _converted_of(name: str, cache_dir: Path) -> Converted | None:
    for each in converted_models(cache_dir):
        if each.folder.name == name:  # of whichever version
            return each
    return find_converted(SMALL_MODEL if is_packaged(name) else name, cache_dir)


def _packaged(converted: list[StoredModel]) -> list[StoredModel]:
    file = packaged_file()
    if file is None and any(each.model == SMALL_ALIAS for each in converted):
        return []
    return [
        StoredModel(
            name=SMALL_MODEL,
            kind=Kind.PACKAGE,
            model=SMALL_ALIAS if file else None,
            note="the default" if file else f"not here: {FETCH_COMMAND}",
            size_bytes=file.stat().st_size if file else None,
            quantisation=SMALL_QUANTISATION,
            path=file,
            source=MODEL_REQUIREMENT,
        )
    ]


def _row_of(made: Converted, handle: str) -> StoredModel:
    if not made.is_current:
        model, note = None, f"of another version: rhizome model rm {handle}"
    elif made.source.sha256 == SMALL_SHA256 and made.source.name == SMALL_MODEL:
        model, note = SMALL_ALIAS, "the default"
    else:
        model, note = handle, ""
    return StoredModel(
        name=made.source.name,
        kind=Kind.CONVERTED,
        model=model,
        note=note,
        size_bytes=_size_bytes(made.folder),
        quantisation=made.source.quantisation,
        path=made.folder,
        source=f"GGUF sha256:{made.source.sha256}",
    )


def _from_hub() -> list[StoredModel]:
    return [
        StoredModel(
            name=each.hub_id,
            kind=Kind.HUB,
            model=each.hub_id if each.is_whole else None,
            note="" if each.is_whole else f"not whole: rhizome model fetch {each.hub_id}",
            size_bytes=each.size_bytes,
            quantisation=each.quantisation,
            path=each.folder,
            source=each.hub_id,
        )
        for each in hub_models()
    ]


def _size_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
