"""The style that a reader relies on, as tests: import direction, banned calls, sizes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("security", "inference", "overlay", "chaos")
MAY_IMPORT = {
    "security": {"security"},
    "inference": {"inference"},
    "overlay": {"overlay", "security", "inference"},
    "chaos": set(PACKAGES),
}
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70

BANNED = {
    "time.time": {"overlay/system.py"},
    "time.time_ns": set(),
    "time.monotonic": {"inference/worker.py", "inference/step.py", "inference/embedded.py"},
    "time.monotonic_ns": set(),
    "time.perf_counter": {"chaos/stopwatch.py"},
    "time.perf_counter_ns": set(),
    "time.sleep": set(),
    "datetime.datetime.now": set(),
    "datetime.datetime.utcnow": set(),
    "datetime.datetime.today": set(),
    "datetime.date.today": set(),
    "os.urandom": set(),
    # Real processes of a live run have real keys, and tags and addresses that no other run has.
    "secrets": {"overlay/system.py", "chaos/modes/live/homes.py", "chaos/modes/live/tag.py"},
    "uuid": set(),
    "random": set(),
    # Where the environment is read (or handed to a child) on purpose.
    "os.environ": {
        "inference/store/files.py",
        "overlay/client/client.py",
        "overlay/commands/options.py",
        "overlay/demo/run.py",
        "chaos/modes/live/process.py",
        "chaos/modes/live/runner.py",
        "chaos/node.py",
        "chaos/pool.py",
    },
    "os.getenv": set(),
    "asyncio": {"overlay/discovery/mdns.py"},
    "print": set(),
}
"""What may be used in no file, or in these only; the name of a module stands for all of it."""

SEEDED = re.compile(r"random\.Random\b")
"""Its owner gives it a seed."""

THREADS_ALLOWED = {
    "inference/worker.py",
    "inference/remote/local_model.py",  # loading a tokenizer takes seconds
    "overlay/discovery/mdns.py",
}
TORCH_ALLOWED = {
    f"inference/{name}.py"
    for name in (
        *(
            "attention",
            "store/convert",
            "embedded",
            "hardware",
            "linear",
            "model",
            "passes",
            "pool",
        ),
        *("sampler", "scheduler", "step", "support", "tokenizer"),
    )
}
"""The embedded engine."""


def sources() -> list[Path]:
    return sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported_roots(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("path", sources(), ids=relative)
def test_imports_point_one_way(path: Path) -> None:
    package = relative(path).split("/")[0]
    ours = {root for root in imported_roots(ast.parse(path.read_text())) if root in PACKAGES}
    assert ours <= MAY_IMPORT[package]


def used_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of what a module uses of others, under the name that it has there."""
    real: dict[str, str] = {"print": "print"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            real |= {each.asname or each.name: each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            real |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            first, dot, rest = ast.unparse(node).partition(".")
            if first in real:
                yield node.lineno, real[first] + dot + rest


def banned(tree: ast.AST, name: str) -> list[tuple[int, str]]:
    """What a file uses and may not."""
    return [
        (line, used)
        for line, used in used_names(tree)
        for word, allowed in BANNED.items()
        if used == word or (used.startswith(f"{word}.") and not SEEDED.match(used))
        if name not in allowed and used not in ("random", "secrets", "uuid", "asyncio")
    ]


@pytest.mark.parametrize("path", sources(), ids=relative)
def test_clock_randomness_environment_and_threads_come_through_ports(path: Path) -> None:
    name = relative(path)
    tree = ast.parse(path.read_text())
    assert banned(tree, name) == []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and "to_thread" in ast.unparse(node.func):
            assert name in THREADS_ALLOWED, f"{name}:{node.lineno} starts a thread"


@pytest.mark.parametrize(
    ("code", "used"),
    [
        ("import datetime as dt\ndt.datetime.now(dt.UTC)", "datetime.datetime.now"),
        ("from datetime import datetime\ndatetime.now()", "datetime.datetime.now"),
        ("import time\nclock = time.time_ns", "time.time_ns"),
        ("from time import monotonic as now\nnow()", "time.monotonic"),
        ("import random\nrandom.shuffle([])", "random.shuffle"),
        ("from random import randint\nrandint(1, 2)", "random.randint"),
        ("import os\nos.environ['HOME']", "os.environ"),
        ("from os import environ\nenviron.get('HOME')", "os.environ"),
        ("print('x')", "print"),
    ],
)
def test_a_banned_name_is_found_however_it_was_imported(code: str, used: str) -> None:
    assert used in {found for _, found in banned(ast.parse(code), "overlay/node.py")}


def test_seeded_generators_are_not_banned() -> None:
    code = "import random\nrandom.Random(1).choice([1])"
    assert banned(ast.parse(code), "overlay/node.py") == []


@pytest.mark.parametrize("path", sources(), ids=relative)
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= FILE_LINES_MAX
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            size = node.end_lineno - node.lineno + 1
            assert size <= FUNCTION_LINES_MAX, f"{relative(path)}:{node.lineno} {node.name} {size}"


@pytest.mark.parametrize("path", sources(), ids=relative)
def test_no_exception_is_swallowed_and_nothing_is_left_open(path: Path) -> None:
    text = path.read_text()
    for word in ("TODO", "FIXME", "XXX"):
        assert word not in text
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            pytest.fail(f"{relative(path)}:{node.lineno} bare except")
        if (
            isinstance(node, ast.Raise)
            and node.exc
            and "NotImplementedError" in ast.unparse(node.exc)
        ):
            pytest.fail(f"{relative(path)}:{node.lineno} NotImplementedError")


def test_sans_io_cores_import_no_trio() -> None:
    cores = [*(ROOT / "security").rglob("*.py"), *(ROOT / "overlay" / "gossip").rglob("*.py")]
    cores += [*(ROOT / "overlay" / "routing").rglob("*.py")]
    cores += [p for p in (ROOT / "inference").glob("*.py") if p.name != "worker.py"]
    cores += [ROOT / "overlay/transport" / name for name in ("frame.py", "mux.py")]
    offenders = [
        relative(p) for p in cores if "trio" in set(imported_roots(ast.parse(p.read_text())))
    ]
    assert offenders == []


def test_torch_is_imported_only_by_the_embedded_engine() -> None:
    offenders = [
        relative(p)
        for p in sources()
        if {"torch", "transformers", "tokenizers", "safetensors", "gguf"}
        & set(imported_roots(ast.parse(p.read_text())))
        and relative(p) not in TORCH_ALLOWED
    ]
    assert offenders == []
