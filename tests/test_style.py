"""The style that a reader relies on, as tests: import direction, banned calls, sizes."""

from __future__ import annotations

import ast
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

BANNED_CALLS = {
    "time.time": {"overlay/system.py"},
    "time.monotonic": {"inference/worker.py", "inference/step.py", "inference/embedded.py"},
    "time.perf_counter": set(),
    "os.urandom": set(),
    "secrets.token_bytes": {"overlay/system.py"},
    "uuid.uuid4": set(),
    "random.random": set(),
    "random.choice": set(),
    "datetime.now": set(),
    "asyncio.run": set(),
    "time.sleep": set(),
    "print": set(),
}
THREADS_ALLOWED = {"inference/worker.py", "overlay/discovery/mdns.py"}
TORCH_ALLOWED = "inference/"


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


@pytest.mark.parametrize("path", sources(), ids=relative)
def test_clock_randomness_and_threads_come_through_ports(path: Path) -> None:
    name = relative(path)
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in BANNED_CALLS:
            assert name in BANNED_CALLS[called], f"{name}:{node.lineno} calls {called}"
        if "to_thread" in called:
            assert name in THREADS_ALLOWED, f"{name}:{node.lineno} starts a thread"


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
        if {"torch", "transformers", "gguf"} & set(imported_roots(ast.parse(p.read_text())))
        and not relative(p).startswith(TORCH_ALLOWED)
    ]
    assert offenders == []
