"""The engine that the settings ask for, and torch for the embedded one alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from inference.errors import InferenceError
from overlay.choices import EngineKind
from overlay.config import PeerConfig
from overlay.engines import make_engine
from overlay.system import SystemEntropy

ROOT = Path(__file__).resolve().parent.parent.parent


def silent(what: str, share: float) -> None:
    """No progress is told."""


def test_the_toy_engine_has_the_settings_of_the_peer() -> None:
    config = PeerConfig(
        engine=EngineKind.TOY,
        toy_slots=3,
        toy_cache_tokens=1600,
        toy_context_tokens=512,
        toy_prefill_tokens_per_s=123.0,
        toy_decode_s=0.5,
    )
    engine = make_engine(config, silent, SystemEntropy())
    capabilities, load = engine.capabilities(), engine.load()
    assert capabilities.slots == 3
    assert [model.context_tokens for model in capabilities.models] == [512]
    assert load.total_blocks == 100
    assert (load.prefill_tokens_per_s, load.decode_s_per_token) == (123.0, 0.5)


def test_no_engine_serves_no_model() -> None:
    engine = make_engine(PeerConfig(engine=EngineKind.NONE), silent, SystemEntropy())
    assert engine.capabilities().models == ()
    assert not engine.capabilities().tokenizes
    assert engine.load().total_blocks == 0


def test_only_the_embedded_engine_imports_torch() -> None:
    code = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from overlay.choices import EngineKind\n"
        "from overlay.config import PeerConfig\n"
        "from overlay.engines import make_engine\n"
        "import overlay.commands.peer\n"
        "for kind in (EngineKind.NONE, EngineKind.TOY):\n"
        "    make_engine(PeerConfig(engine=kind), lambda *_: None, None)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=30)


@pytest.mark.parametrize("model", ["none", "./none/here.gguf", ""])
def test_a_model_that_is_not_there_is_told_without_torch(tmp_path: Path, model: str) -> None:
    """An empty folder, and what is no name at all."""
    code = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from inference.errors import ModelMissing\n"
        "from overlay.choices import EngineKind\n"
        "from overlay.config import PeerConfig\n"
        "from overlay.engines import make_engine\n"
        "try:\n"
        f"    make_engine(PeerConfig(model={model or str(tmp_path)!r}), lambda *_: None, None)\n"
        "except ModelMissing as error:\n"
        "    sys.exit(0)\n"
        "sys.exit('no error')\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=30)


def test_a_missing_model_says_how_to_get_or_name_one(tmp_path: Path) -> None:
    config = PeerConfig(engine=EngineKind.EMBEDDED, model=str(tmp_path / "none"))
    with pytest.raises(InferenceError) as caught:
        make_engine(config, silent, SystemEntropy())
    assert "\n" not in str(caught.value)
    assert "--model" in str(caught.value)
