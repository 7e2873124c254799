"""Turns a GGUF file into a folder of safetensors, once: loading then takes 2 s instead of 16.

The folder is named by the file's SHA-256 and this converter's version, is made under another name
and renamed when it is whole, and is made by one process while others wait for it. ``gguf`` is
needed for this only, and transformers imports it.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass
from pathlib import Path

from inference.errors import ModelMissing

Progress = Callable[[str, float], None]
"""Told what is being done and how much of it is done (0 to 1)."""

CONVERTER_VERSION = 1
SOURCE_FILE = "rhizome-source.json"

_QUANTISED_NAME = re.compile(
    r"(?P<name>.+?)[.-](?P<quantisation>I?Q\d\w*|B?F16|F32)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a converted folder was made of."""

    name: str
    quantisation: str
    sha256: str


def convert(gguf_file: Path, cache_dir: Path, progress: Progress) -> Path:
    """The folder with the file's model, made now unless an earlier run has made it.

    Args:
        gguf_file: A model and its tokenizer in GGUF.
        cache_dir: Where converted models are kept; made if missing.
        progress: Called a few times while a conversion runs, not at all otherwise.

    Raises:
        ModelMissing: The file cannot be read or the folder cannot be written.
    """
    try:
        digest = _sha256(gguf_file)
        cache_dir.mkdir(parents=True, exist_ok=True)
        name, _ = _name_of(gguf_file)
        folder = cache_dir / f"{name}-{digest[:16]}-v{CONVERTER_VERSION}"
        if not folder.exists():
            with _only_one(folder.with_suffix(".lock")):
                if not folder.exists():
                    _convert(gguf_file, digest, folder, progress)
    except OSError as error:
        raise ModelMissing(
            f"{gguf_file.name} cannot be converted into {cache_dir}: {error.strerror or error}"
        ) from error
    return folder


def read_source(folder: Path) -> Source | None:
    """What the folder was converted from; None when it was not made here."""
    try:
        return Source(**json.loads((folder / SOURCE_FILE).read_text()))
    except FileNotFoundError:
        return None


def _convert(gguf_file: Path, digest: str, folder: Path, progress: Progress) -> None:
    name, quantisation = _name_of(gguf_file)
    title = f"converting {name} to safetensors (once)"
    progress(title, 0.0)
    made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        _write_tokenizer(gguf_file, made)
        progress(title, 0.25)
        _write_weights(gguf_file, made)
        source = Source(name=name, quantisation=quantisation, sha256=digest)
        (made / SOURCE_FILE).write_text(json.dumps(asdict(source), indent=1))
        made.rename(folder)
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


@contextmanager
def _only_one(lock_file: Path) -> Iterator[None]:
    """Waits until no other process converts the same file."""
    with lock_file.open("w") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield


def _name_of(gguf_file: Path) -> tuple[str, str]:
    match = _QUANTISED_NAME.fullmatch(gguf_file.stem)
    if match is None:
        return gguf_file.stem, "unknown"
    return match["name"], match["quantisation"].upper()


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
