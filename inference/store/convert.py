"""Turns a GGUF file into a folder of safetensors, once: loading then takes 2 s instead of 16.

The folder is named by the file's SHA-256 and this converter's version, is made under another name
and renamed when it is whole, and is made by one process while others wait for it; that one also
removes what a killed one had begun. ``gguf`` is needed for this only, and transformers imports it.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass
from pathlib import Path

from inference.errors import ModelMissing
from inference.store.extras import require_local

Progress = Callable[[str, float], None]
"""Told what is being done and how much of it is done (0 to 1)."""

CONVERTER_VERSION = 1
SOURCE_FILE = "rhizome-source.json"
GGUF_MAGIC = b"GGUF"

_QUANTISED_NAME = re.compile(
    r"(?P<name>.+?)[.-](?P<quantisation>I?Q\d\w*|B?F16|F32)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a converted folder was made of."""

    name: str
    quantisation: str
    sha256: str


def convert(
    gguf_file: Path, cache_dir: Path, progress: Progress, *, name: str | None = None
) -> Path:
    """The folder with the file's model, made now unless an earlier run has made it.

    Args:
        gguf_file: A model and its tokenizer in GGUF.
        cache_dir: Where converted models are kept; made if missing.
        progress: Called a few times while a conversion runs, not at all otherwise.
        name: What the model is called; None: after the file.

    Raises:
        ModelMissing: The file cannot be read or is no model, or the folder cannot be written.
        PartMissing: A conversion is needed, and a library for it is not installed.
    """
    try:
        _check_gguf(gguf_file)
        digest = _sha256(gguf_file)
        cache_dir.mkdir(parents=True, exist_ok=True)
        found_name, quantisation = _name_of(gguf_file)
        source = Source(name=name or found_name, quantisation=quantisation, sha256=digest)
        folder = cache_dir / f"{source.name}-{digest[:16]}-v{CONVERTER_VERSION}"
        if not folder.exists():
            require_conversion()
            with only_one(folder):
                if not folder.exists():
                    _convert(gguf_file, source, folder, progress)
    except OSError as error:
        raise ModelMissing(
            f"{gguf_file.name} cannot be converted into {cache_dir}: {error.strerror or error}"
        ) from error
    return folder


def require_conversion() -> None:
    """Raises PartMissing, with the command to run, where a conversion would lack a library."""
    require_local("converting a GGUF file", "torch", "gguf", "accelerate", "safetensors")


def read_source(folder: Path) -> Source | None:
    """What the folder was converted from; None when it was not made here."""
    try:
        return Source(**json.loads((folder / SOURCE_FILE).read_text()))
    except FileNotFoundError:
        return None


@contextmanager
def only_one(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Waits until no other process makes or removes the same folder.

    Raises:
        BlockingIOError: One does, and ``wait`` is false.
    """
    lock_file = folder.parent / f"{folder.name}.lock"
    with _locked(lock_file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB):
        try:
            for left in folder.parent.glob(f".{glob.escape(folder.name)}-*"):
                shutil.rmtree(left, ignore_errors=True)
            yield
        finally:
            lock_file.unlink(missing_ok=True)


@contextmanager
def _locked(lock_file: Path, operation: int) -> Iterator[None]:
    """Holds the lock of the file of that name, which whoever held it before may have removed."""
    while True:
        with lock_file.open("w") as opened:
            fcntl.flock(opened, operation)
            if _is_at(lock_file, opened.fileno()):
                yield
                return


def _is_at(file: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


def _check_gguf(file: Path) -> None:
    try:
        with file.open("rb") as opened:
            begins = opened.read(len(GGUF_MAGIC))
    except OSError as error:
        raise ModelMissing(f"{file} cannot be read: {error.strerror}") from error
    if begins != GGUF_MAGIC:
        raise ModelMissing(f"{file} is no GGUF file")


def _convert(gguf_file: Path, source: Source, folder: Path, progress: Progress) -> None:
    title = f"converting {source.name} to safetensors (once)"
    progress(title, 0.0)
    made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        _write_tokenizer(gguf_file, made)
        progress(title, 0.25)
        _write_weights(gguf_file, made)
        (made / SOURCE_FILE).write_text(json.dumps(asdict(source), indent=1))
        made.rename(folder)
    except OSError:
        raise
    except Exception as error:  # libraries' errors of any kind, on a file of any origin
        said = str(error).strip().split("\n")[0][:200]
        if "No space left" in said:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise ModelMissing(f"{gguf_file.name} cannot be converted: {said}") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    progress(title, 1.0)


def _write_tokenizer(gguf_file: Path, made: Path) -> None:
    from transformers import AutoTokenizer

    with no_progress_bars():
        tokenizer = AutoTokenizer.from_pretrained(
            gguf_file.parent, gguf_file=gguf_file.name, local_files_only=True
        )
        tokenizer.save_pretrained(made)


def _write_weights(gguf_file: Path, made: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    with no_progress_bars():
        # float32 holds a quantised file's values exactly; a smaller type would round them.
        model = AutoModelForCausalLM.from_pretrained(
            gguf_file.parent, gguf_file=gguf_file.name, local_files_only=True, dtype=torch.float32
        )
        # transformers refuses to save what it loaded from GGUF while these two are set.
        model.hf_quantizer = None
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(made)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """No progress bars of other libraries on the terminal: ours is the callback.

    transformers draws some of them past its own switch, so what it writes to stderr is dropped.
    """
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _name_of(gguf_file: Path) -> tuple[str, str]:
    match = _QUANTISED_NAME.fullmatch(gguf_file.stem)
    if match is None:
        return gguf_file.stem, "unknown"
    return match["name"], match["quantisation"].upper()


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
