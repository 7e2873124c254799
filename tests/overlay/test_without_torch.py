"""The embedded engine where only the base package is installed: one line with a command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
HIDING = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "gguf", "safetensors", "accelerate"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
from inference.errors import InferenceError
from overlay.config import PeerConfig
from overlay.engines import embedded_core
try:
    embedded_core(PeerConfig(model=sys.argv[1]), lambda what, share: None)
except InferenceError as error:
    print(error)
"""


def refusal(model: Path) -> str:
    words = [sys.executable, "-c", HIDING, str(model)]
    return subprocess.run(
        words, cwd=ROOT, check=True, timeout=60, stdout=subprocess.PIPE, text=True
    ).stdout


def test_a_file_that_has_to_be_converted(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    line = "converting a GGUF file needs torch: pip install 'rhizome[local]'\n"
    assert refusal(tmp_path / "x.gguf") == line


def test_a_model_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"w")
    assert refusal(tmp_path) == "the embedded engine needs torch: pip install 'rhizome[local]'\n"


def test_a_mistyped_name_comes_first(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none").startswith("no model at ")
