"""What of a remote model lies on this host too: its tokenizer, and which weights it is.

Reading takes seconds (a library is imported, a vocabulary parsed), so it is done in a thread.
Nothing is fetched: a folder is used, or what the hub's cache already has.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from inference.errors import InferenceError
from inference.remote.readers import LocalTokenizer
from inference.store.hub import is_hub_id

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")

_SPLIT = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.gguf")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalModel:
    """What was found; ``problem`` says why there is no tokenizer although its files are here."""

    tokenizer: LocalTokenizer | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalWeights:
    """Which weights a folder or file has: their digest, and how they are stored."""

    digest: str
    quantisation: str


async def load_local(names: Sequence[str | None], *, context_tokens: int) -> LocalModel:
    """The first of these folders and hub ids that has a tokenizer."""
    find = partial(find_local, names, context_tokens=context_tokens)
    # Abandoned on cancellation: it only reads, and a peer need not wait for it to stop.
    return await trio.to_thread.run_sync(find, abandon_on_cancel=True)


def find_local(names: Sequence[str | None], *, context_tokens: int) -> LocalModel:
    """As :func:`load_local`, in this thread."""
    problem: str | None = None
    for name in dict.fromkeys(filter(None, names)):
        folder = _folder_of(name)
        if folder is None:
            continue
        found = _read(folder, context_tokens)
        if found.tokenizer is not None:
            return found
        problem = problem or found.problem
    return LocalModel(problem=problem)


async def load_weights(root: str | None) -> LocalWeights | None:
    """The weights that a server says it has loaded, where they are here too.

    Args:
        root: A whole path, or a hub id. Another path is one from the server's own folder.
    """
    if root is None:
        return None
    return await trio.to_thread.run_sync(find_weights, root, abandon_on_cancel=True)


def find_weights(root: str) -> LocalWeights | None:
    """As :func:`load_weights`, in this thread."""
    from inference.store.files import folder_files, weights_digest

    path = Path(root)
    try:
        if path.is_absolute() and path.is_file():
            return LocalWeights(digest=weights_digest(_parts_of(path)), quantisation="as its file")
        folder = path if path.is_absolute() and path.is_dir() else _snapshot_of(root)
        if folder is None:
            return None
        files = folder_files(folder)
    except (InferenceError, OSError):
        return None
    quantisation = files.quantisation
    if quantisation == "none":
        quantisation = _configured(folder)
    return LocalWeights(digest=files.weights, quantisation=quantisation)


def _parts_of(file: Path) -> list[Path]:
    """All files of a model that is split, as llama.cpp names them."""
    split = _SPLIT.fullmatch(file.name)
    if split is None:
        return [file]
    count = split["count"]
    return sorted(p for p in file.parent.iterdir() if _is_part(p.name, split["stem"], count))


def _is_part(name: str, stem: str, count: str) -> bool:
    split = _SPLIT.fullmatch(name)
    return split is not None and (split["stem"], split["count"]) == (stem, count)


def _configured(folder: Path) -> str:
    """How a folder's weights are stored, as its ``config.json`` says."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
        method = config["quantization_config"]["quant_method"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "none"
    return method if isinstance(method, str) else "none"


def _folder_of(name: str) -> Path | None:
    path = Path(name).expanduser()
    try:
        if path.is_dir():
            return path if any((path / file).is_file() for file in TOKENIZER_FILES) else None
    except OSError:
        return None
    return _snapshot_of(name)


def _snapshot_of(name: str) -> Path | None:
    if not is_hub_id(name):
        return None
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError):
        # Not in the cache: LocalEntryNotFoundError is both.
        return None


def _read(folder: Path, context_tokens: int) -> LocalModel:
    from inference.store.convert import read_source
    from inference.tokenizer import PromptTokenizer

    try:
        source = read_source(folder)
    except OSError:
        source = None
    digest = None if source is None else source.sha256
    try:
        tokenizer = PromptTokenizer(folder, context_tokens=context_tokens, source_digest=digest)
    except Exception as error:  # noqa: BLE001 - files of any origin, read by a library
        log.warning("the tokenizer in %s cannot be used: %s", folder, type(error).__name__)
        return LocalModel(problem=f"the tokenizer in {folder} cannot be used")
    return LocalModel(tokenizer=tokenizer)
