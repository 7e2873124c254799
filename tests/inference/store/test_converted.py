"""Converted folders: found by name, told apart, removed only when nobody makes them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from inference.errors import ModelMissing
from inference.store import convert
from inference.store.convert import SOURCE_FILE, only_one
from inference.store.converted import (
    ModelBusy,
    converted_models,
    find_converted,
    handles,
    remove_converted,
)
from inference.store.files import find_model
from tests.inference.store.model_store import convert_to_nothing, put_converted

A, B = "a" * 64, "b" * 64


def silent(what: str, done: float) -> None:
    """No progress is shown."""


def test_a_converted_model_is_found_by_its_name_and_by_its_folders(tmp_path: Path) -> None:
    folder = put_converted(tmp_path, "small", A)
    for name in ("small", folder.name):
        files = find_model(name, tmp_path, silent)
        assert (files.folder, files.name, files.weights) == (folder, "small", A)
        assert files.quantisation == "Q4_0"
    assert find_converted("other", tmp_path) is None
    assert find_converted("small", tmp_path / "none") is None


def test_a_name_of_two_models_names_their_folders(tmp_path: Path) -> None:
    first, second = (put_converted(tmp_path, "small", digest) for digest in (A, B))
    with pytest.raises(ModelMissing, match=f"{first.name}, {second.name}"):
        find_model("small", tmp_path, silent)
    assert find_model(second.name, tmp_path, silent).weights == B
    assert handles(converted_models(tmp_path)) == {first: first.name, second: second.name}


def test_folders_of_another_version_are_known_and_not_used(tmp_path: Path) -> None:
    old = put_converted(tmp_path, "small", A, version=0)
    (model,) = converted_models(tmp_path)
    assert not model.is_current
    assert find_converted("small", tmp_path) is None
    new = put_converted(tmp_path, "small", A)
    assert handles(converted_models(tmp_path)) == {old: old.name, new: "small"}


@pytest.mark.parametrize("text", ["", "[]", '{"name": "x"}', "\udcff"])
def test_a_folder_without_a_readable_source_was_not_made_here(tmp_path: Path, text: str) -> None:
    folder = put_converted(tmp_path, "small", A)
    (folder / SOURCE_FILE).write_bytes(text.encode(errors="surrogateescape"))
    (tmp_path / "mine").mkdir()
    assert converted_models(tmp_path) == []


def test_removing_leaves_nothing(tmp_path: Path) -> None:
    put_converted(tmp_path, "small", A)
    (model,) = converted_models(tmp_path)
    remove_converted(model)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_being_made_is_not_removed(tmp_path: Path) -> None:
    folder = put_converted(tmp_path, "small", A)
    (model,) = converted_models(tmp_path)
    with only_one(folder), pytest.raises(ModelBusy, match="another process"):
        remove_converted(model)
    assert find_model("small", tmp_path, silent).folder == folder


def test_the_lock_admits_one_after_another_although_it_is_removed(tmp_path: Path) -> None:
    folder, inside, most = tmp_path / "x", [0], [0]

    def work() -> None:
        for _ in range(50):
            with only_one(folder):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_conversion_left_is_removed_by_the_next(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    convert_to_nothing(monkeypatch)
    file = tmp_path / "x.gguf"
    file.write_bytes(b"GGUF")
    folder = convert.convert(file, tmp_path / "cache", silent)
    left = tmp_path / "cache" / f".{folder.name}-left"
    folder.rename(left)
    other = tmp_path / "cache" / ".other-left"
    other.mkdir()
    convert.convert(file, tmp_path / "cache", silent)
    assert sorted(folder.parent.iterdir()) == [other, folder]


def test_a_model_can_be_called_otherwise_than_its_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    convert_to_nothing(monkeypatch)
    file = tmp_path / "Qwen2.5-0.5B-Q4_K_M.gguf"
    file.write_bytes(b"GGUF")
    folder = convert.convert(file, tmp_path, silent, name="qwen")
    files = find_model("qwen", tmp_path, silent)
    assert (files.folder, files.quantisation) == (folder, "Q4_K_M")


@pytest.mark.parametrize(
    ("raised", "line"),
    [
        (ValueError("arch x\nis not known"), "x.gguf cannot be converted: arch x"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "No space left"),
        (OSError(13, "Permission denied"), "Permission denied"),
    ],
)
def test_a_failed_conversion_is_one_line_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, raised: Exception, line: str
) -> None:
    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr(convert, "_write_tokenizer", fail)
    file = tmp_path / "x.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(ModelMissing) as caught:
        convert.convert(file, tmp_path / "cache", silent)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("data", [b"", b"GGU", b"PK\x03\x04"])
def test_what_is_no_gguf_is_refused_before_anything_is_made(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(data)
    with pytest.raises(ModelMissing, match="is no GGUF file"):
        convert.convert(file, tmp_path / "cache", silent)
    assert not (tmp_path / "cache").exists()
