# ruff: noqa: T201 - a program, not a test
"""Coverage-guided inputs for every reader of bytes from outside: ``make fuzz``.

atheris (libFuzzer) begins with the committed forms and the corpus, and keeps what reaches new lines
in ``build/fuzz/`` for the next run. An input that makes a reader fail in an untyped way, take over
:data:`MEMORY_MB` or over :data:`INPUT_S` is printed as a line for ``tests/attacks/corpus/``, whose
inputs ``test_parsers.py`` tries in every run of the tests.

A child process has one reader: libFuzzer ends its process with what it has found.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Final

BUILD: Final = Path("build/fuzz")
INPUT_BYTES_MAX: Final = 4096
INPUT_S: Final = 5
MEMORY_MB: Final = 1024


def main() -> None:
    """Runs every reader, or those that were named; exit code 1 where one has failed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.attacks.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Example: python -m tests.attacks.fuzz --seconds 60 record ticket",
    )
    parser.add_argument("readers", nargs="*", metavar="READER", help="as --list names them")
    parser.add_argument("--seconds", type=int, default=10, help="a reader; default 10")
    parser.add_argument("--seed", type=int, default=1, help="default 1")
    parser.add_argument("--list", action="store_true", help="print the readers' names and end")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        fuzz(chosen.readers[0], chosen.seconds, chosen.seed)
    from tests.attacks.readers import READERS

    if chosen.list:
        print("\n".join(READERS))
        return
    if unknown := set(chosen.readers) - set(READERS):
        parser.error(f"no such reader: {', '.join(sorted(unknown))}; --list names them")
    failed = [
        name
        for name in chosen.readers or READERS
        if not is_sound(name, chosen.seconds, chosen.seed)
    ]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def is_sound(name: str, seconds: int, seed: int) -> bool:
    """Runs one reader in a process of its own, and prints what came of it."""
    folder = folder_of(name)
    before = set(folder.glob("found-*"))
    options = ["--child", "--seconds", str(seconds), "--seed", str(seed), name]
    child = subprocess.run(
        [sys.executable, "-m", "tests.attacks.fuzz", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    runs = [line for line in child.stderr.splitlines() if line.startswith("stat::number_of_exec")]
    inputs = len(list((folder / "kept").iterdir()))
    print(f"{name}: {runs[0].split()[-1] if runs else 'no'} inputs, {inputs} kept", flush=True)
    if child.returncode == 0 and runs:
        return True
    for path in sorted(set(folder.glob("found-*")) - before):
        print(f"  {path.read_bytes().hex() or '-'}  # {name}: {path.name.split('-')[1]}")
    print(child.stderr[-4000:])
    return False


def folder_of(name: str) -> Path:
    """Where a reader's inputs are kept between runs."""
    folder = BUILD / name.replace(" ", "-").replace("'", "")
    (folder / "kept").mkdir(parents=True, exist_ok=True)
    return folder


def fuzz(name: str, seconds: int, seed: int) -> None:
    """In the child: never returns."""
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is not installed here: run 'make fuzz', which installs it")
    with atheris.instrument_imports(include=["overlay", "security"]):
        from tests.attacks.readers import READERS, corpus, typed
    parse, seeds = READERS[name]
    folder = folder_of(name)
    for each in (*seeds, *corpus()):
        (folder / "kept" / hashlib.sha256(each).hexdigest()[:40]).write_bytes(each)
    flags = [
        f"-max_total_time={seconds}",
        f"-max_len={INPUT_BYTES_MAX}",
        f"-timeout={INPUT_S}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-seed={seed}",
        f"-artifact_prefix={folder}/found-",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *flags, str(folder / "kept")], lambda data: typed(parse, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
