"""What of a remote model lies on this host too: its tokenizer, and which weights it is.

Reading takes seconds (a library is imported, a vocabulary parsed), so it is done in a thread.
Nothing is fetched: a folder is used, or what the hub's cache already has.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from inference.errors import InferenceError
from inference.remote.readers import LocalTokenizer

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalModel:
    """What was found.

    ``weights`` is their digest where the files are here; ``problem`` says why there is no tokenizer
    although its files are here.
    """

    tokenizer: LocalTokenizer | None = None
    weights: str | None = None
    quantisation: str | None = None
    problem: str | None = None


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


def _folder_of(name: str) -> Path | None:
    path = Path(name).expanduser()
    try:
        if path.is_dir():
            return path if any((path / file).is_file() for file in TOKENIZER_FILES) else None
    except OSError:
        return None
    if not _HUB_ID.fullmatch(name):
        return None
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError):
        # Not in the cache: LocalEntryNotFoundError is both.
        return None


def _read(folder: Path, context_tokens: int) -> LocalModel:
    from inference.files import folder_files
    from inference.tokenizer import PromptTokenizer

    try:
        files = folder_files(folder)
    except (InferenceError, OSError):
        files = None  # no weights here
    digest = None if files is None else files.tokenizer
    try:
        tokenizer = PromptTokenizer(folder, context_tokens=context_tokens, source_digest=digest)
    except Exception as error:  # noqa: BLE001 - files of any origin, read by a library
        log.warning("the tokenizer in %s cannot be used: %s", folder, type(error).__name__)
        return LocalModel(problem=f"the tokenizer in {folder} cannot be used")
    if files is None:
        return LocalModel(tokenizer=tokenizer)
    return LocalModel(tokenizer=tokenizer, weights=files.weights, quantisation=files.quantisation)
