"""Models from the hub: what its cache on this host holds, fetching into it, and removing from it.

``huggingface_hub`` does all of it, is imported late and without torch. Rules kept here:

1. Of a repository only :data:`HUB_FILES` are fetched, and none without safetensors.
2. A snapshot that lacks a file is not taken for a model.
3. Where nothing was, a fetch that fails leaves nothing behind, but for weights that came whole: the
   next one goes on from them. A full disk is cleared of these too.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.errors import ModelMissing
from inference.store.convert import Progress

if TYPE_CHECKING:
    from huggingface_hub import CachedRepoInfo, HFCacheInfo
    from huggingface_hub.utils.tqdm import tqdm

HUB_FILES = ("*.json", "*.jinja", "*.safetensors", "*.txt", "*.model")
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "spiece.model"),
    *("vocab.json", "vocab.txt"),
)
INDEX_FILE = "model.safetensors.index.json"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_FULL = {errno.ENOSPC, errno.EDQUOT}
_CAUSES_MAX = 8
_WEIGHTS = "snapshots/*/*.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubModel:
    """A model in the hub's cache on this host; ``is_whole`` says that it can be served."""

    hub_id: str
    folder: Path
    size_bytes: int
    quantisation: str
    is_whole: bool


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a hub id, as in ``owner/model``."""
    return _HUB_ID.fullmatch(name) is not None


def cached_snapshot(hub_id: str) -> Path | None:
    """The model in the cache; None where it is not, or not whole. Asks no network."""
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            hub_id,
            cache_dir=_cache_folder(),
            allow_patterns=list(HUB_FILES),
            local_files_only=True,
        )
    except (OSError, ValueError):  # LocalEntryNotFoundError is the first, a bad id the second
        return None
    return Path(found) if _is_whole(Path(found)) else None


def fetch_from_hub(hub_id: str, progress: Progress) -> Path:
    """Fetches a model into the cache.

    Args:
        hub_id: As in ``owner/model``.
        progress: Told how much has come; what it raises ends the fetch.

    Raises:
        ModelMissing: It cannot be had; the message says why and what to do.
    """
    repo = _cache_folder() / f"models--{hub_id.replace('/', '--')}"
    was_there = repo.exists()
    try:
        with _said_once():
            return _fetch(hub_id, progress)
    except BaseException as error:
        if not was_there and (_is_disk_full(error) or not any(repo.glob(_WEIGHTS))):
            shutil.rmtree(repo, ignore_errors=True)
        if isinstance(error, ModelMissing) or not isinstance(error, Exception):
            raise
        reason = _reason(error)
        raise ModelMissing(f"{hub_id} cannot be had from the hub: {reason}") from error


def hub_models() -> list[HubModel]:
    """What the cache has of models with safetensors, by id."""
    found = (_model_of(repo) for repo in _repositories(_scan()))
    return sorted((each for each in found if each), key=lambda each: each.hub_id)


def remove_from_hub(hub_id: str) -> None:
    """Removes every revision of a model from the cache.

    Raises:
        ModelMissing: The cache has no such model.
    """
    info = _scan()
    for repo in _repositories(info):
        if info is not None and repo.repo_id == hub_id:
            commits = sorted(revision.commit_hash for revision in repo.revisions)
            # A copy of the repository under another name has the same commits.
            replace(info, repos=frozenset({repo})).delete_revisions(*commits).execute()
            return
    raise ModelMissing(f"the hub's cache has no {hub_id}")


def _fetch(hub_id: str, progress: Progress) -> Path:
    from huggingface_hub import snapshot_download

    title = f"downloading {hub_id}"
    progress(title, 0.0)
    patterns, cache = list(HUB_FILES), _cache_folder()
    silent = _bar_class(title, 0, progress)
    planned = snapshot_download(
        hub_id, cache_dir=cache, allow_patterns=patterns, dry_run=True, tqdm_class=silent
    )
    if not any(file.filename.endswith(".safetensors") for file in planned):
        raise ModelMissing(f"{hub_id} has no *.safetensors, and nothing else can be served")
    size = sum(file.file_size or 0 for file in planned)
    wanted = sum(file.file_size or 0 for file in planned if file.will_download)
    free = _free_bytes(cache)
    if wanted > free:
        raise ModelMissing(f"{hub_id} needs {_mb(wanted)} in {cache}, where {_mb(free)} are free")
    bars = _bar_class(title, size, progress)
    folder = snapshot_download(hub_id, cache_dir=cache, allow_patterns=patterns, tqdm_class=bars)
    if not _is_whole(Path(folder)):
        raise ModelMissing(f"{hub_id} lacks a part of its weights, or a tokenizer")
    progress(title, 1.0)
    return Path(folder)


@contextmanager
def _said_once() -> Iterator[None]:
    """The hub's client logs each of its tries; what came of them all is told by the error."""
    from huggingface_hub.utils.logging import get_verbosity, set_verbosity

    before = get_verbosity()
    set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        set_verbosity(before)


def _bar_class(title: str, size_bytes: int, progress: Progress) -> type[tqdm]:
    """Bars that are not drawn and tell ``progress`` instead, from whichever thread moves them."""
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:  # passed on
            self.counts_bytes = options.get("unit") == "B"
            self.counted = 0.0
            given = options | {"file": io.StringIO(), "disable": True}
            super().__init__(*args, **given)  # type: ignore[no-untyped-call]  # tqdm has no types

        def update(self, n: float | None = 1) -> None:
            self.counted += n or 0
            if self.counts_bytes and size_bytes:
                progress(title, min(0.99, self.counted / size_bytes))

    return Bar


def _reason(error: Exception) -> str:
    from huggingface_hub import errors

    causes = tuple(_causes(error))
    if _is_disk_full(error):
        return f"no space is left in {_cache_folder()}"
    for cause in causes:
        match cause:
            case errors.GatedRepoError():
                return "it is gated: accept its terms on its page there, then run `hf auth login`"
            case errors.RepositoryNotFoundError():
                return "it has none of that name, or a private one that needs `hf auth login`"
            case errors.HFValidationError():
                return "that is no hub id"
            case errors.OfflineModeIsEnabled():
                return "HF_HUB_OFFLINE forbids it"
            case errors.HfHubHTTPError():
                return f"it answers {cause.response.status_code}"
            case PermissionError():
                return f"{cause.strerror}: {cause.filename}"
    reached = (ConnectionError, TimeoutError, errors.LocalEntryNotFoundError, errors.DryRunError)
    if any(isinstance(cause, reached) for cause in causes):
        return "it cannot be reached; check the network"
    return f"{type(error).__name__}; check the id and the network"


def _causes(error: BaseException) -> Iterator[BaseException]:
    at: BaseException | None = error
    for _ in range(_CAUSES_MAX):
        if at is None:
            return
        yield at
        at = at.__cause__ or at.__context__


def _is_disk_full(error: BaseException) -> bool:
    return any(
        (isinstance(each, OSError) and each.errno in _FULL) or "No space left" in str(each)
        for each in _causes(error)
    )


def _model_of(repo: CachedRepoInfo) -> HubModel | None:
    """What a name without a revision means, which is all that ``--model`` takes."""
    is_cut_off = any(repo.repo_path.glob("blobs/*.incomplete"))
    for revision in repo.revisions:
        folder = revision.snapshot_path
        if "main" in revision.refs and (is_cut_off or any(folder.glob("*.safetensors*"))):
            return HubModel(
                hub_id=repo.repo_id,
                folder=folder,
                size_bytes=repo.size_on_disk,
                quantisation=_quantisation(folder),
                is_whole=cached_snapshot(repo.repo_id) is not None,
            )
    return None


def _is_whole(folder: Path) -> bool:
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        return False
    index = _read_json(folder / INDEX_FILE).get("weight_map")
    if isinstance(index, dict):
        return all((folder / str(name)).exists() for name in set(index.values()))
    return any(file.exists() for file in folder.glob("*.safetensors"))


def _quantisation(folder: Path) -> str:
    stored = _read_json(folder / "config.json").get("quantization_config")
    return str(stored.get("quant_method", "none")) if isinstance(stored, dict) else "none"


def _read_json(file: Path) -> dict[str, Any]:  # a file of any origin
    try:
        read = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def _repositories(info: HFCacheInfo | None) -> list[CachedRepoInfo]:
    return [repo for repo in info.repos if repo.repo_type == "model"] if info else []


def _scan() -> HFCacheInfo | None:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        return scan_cache_dir(_cache_folder())
    except CacheNotFound:
        return None


def _cache_folder() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _free_bytes(folder: Path) -> int:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.0f} MB"
