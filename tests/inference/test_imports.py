"""What each part may need: a peer without the embedded engine needs no torch, and so on."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import inference

BLOCKED = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None
import {module}
missing = [name for name in {blocked!r} if sys.modules.get(name) is not None]
assert not missing, missing
"""

TORCH = ("torch", "transformers", "tokenizers", "gguf", "numpy")
PLAIN = ["request", "events", "errors", "blocks", "radix", "cache", "detokenizer", "core", "toy"]
NETWORK = ("trio", "gguf", "msgspec", "starlette", "cryptography", "zeroconf", "overlay")
ENGINE = ["pool", "attention", "step", "sampler", "generation", "scheduler", "support"]


def import_without(module: str, blocked: tuple[str, ...]) -> None:
    code = BLOCKED.format(module=module, blocked=blocked)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]


def test_everything_but_the_embedded_engine_imports_without_torch() -> None:
    names = [*PLAIN, "worker", "none", "store.files"]
    import_without(", ".join(f"inference.{name}" for name in names), TORCH)


def test_plain_parts_import_without_trio_and_torch() -> None:
    import_without(", ".join(f"inference.{name}" for name in PLAIN), (*TORCH, *NETWORK))


def test_engine_imports_without_trio_gguf_and_the_network() -> None:
    names = [*ENGINE, "tokenizer", "model", "store.convert", "hardware", "embedded"]
    import_without(", ".join(f"inference.{name}" for name in names), NETWORK)


@pytest.mark.parametrize("name", [*ENGINE, "radix", "cache", "blocks"])
def test_tree_pool_and_step_loop_import_the_standard_library_torch_and_transformers(
    name: str,
) -> None:
    tree = ast.parse((Path(inference.__file__).parent / f"{name}.py").read_text())
    roots: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            roots.add(node.module.split(".")[0])
    assert roots <= {*sys.stdlib_module_names, "inference", "torch", "transformers"}


def test_gguf_is_needed_for_conversion_only(tiny_folder: Path) -> None:
    code = (
        "import sys; sys.modules['gguf'] = None\n"
        "from inference.embedded import EngineSettings, load_engine\n"
        f"load_engine(EngineSettings(model={str(tiny_folder)!r}, device='cpu', threads=1,"
        " kv_cache_bytes=1 << 20)).close()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
