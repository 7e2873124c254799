"""Models that take no time to make: snapshots as the hub's cache has them, and conversions."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from inference.store import convert
from inference.store.convert import CONVERTER_VERSION, SOURCE_FILE

COMMIT = "a" * 40
WHOLE = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"weights"}


def put_snapshot(cache: Path, hub_id: str, files: dict[str, bytes]) -> Path:
    """A snapshot of ``main`` with these files."""
    repo = cache / f"models--{hub_id.replace('/', '--')}"
    snapshot = repo / "snapshots" / COMMIT
    for folder in (snapshot, repo / "blobs", repo / "refs"):
        folder.mkdir(parents=True, exist_ok=True)
    (repo / "refs" / "main").write_text(COMMIT)
    for name, data in files.items():
        blob = repo / "blobs" / hashlib.sha256(data).hexdigest()
        blob.write_bytes(data)
        (snapshot / name).symlink_to(blob)
    return snapshot


def put_converted(
    cache_dir: Path, name: str, sha256: str, *, version: int = CONVERTER_VERSION
) -> Path:
    """A converted folder."""
    folder = cache_dir / f"{name}-{sha256[:16]}-v{version}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(1000))
    source = {"name": name, "quantisation": "Q4_0", "sha256": sha256}
    (folder / SOURCE_FILE).write_text(json.dumps(source))
    return folder


def convert_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversions write next to nothing from now on."""
    monkeypatch.setattr(convert, "_write_tokenizer", lambda *_: None)
    monkeypatch.setattr(
        convert, "_write_weights", lambda _, made: (made / "model.safetensors").write_bytes(b"w")
    )
