"""The hub's cache, and a stubbed client: what is whole, what is fetched, what fails."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from inference.errors import ModelMissing
from inference.store.hub import (
    HUB_FILES,
    cached_snapshot,
    fetch_from_hub,
    hub_models,
    is_hub_id,
    remove_from_hub,
)
from tests.inference.store.model_store import WHOLE, put_snapshot

Client = Callable[..., Any]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def silent(what: str, done: float) -> None:
    """No progress is shown."""


def a_file(name: str, size_bytes: int) -> SimpleNamespace:
    return SimpleNamespace(filename=name, file_size=size_bytes, will_download=True)


def fake_hub(
    monkeypatch: pytest.MonkeyPatch, download: Client, *names: str, size: int = 10
) -> None:
    def snapshot_download(hub_id: str, **options: Any) -> object:
        assert options["allow_patterns"] == list(HUB_FILES)
        if options.get("dry_run"):
            return [a_file(name, size) for name in names]
        return download(hub_id, **options)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)


def failing(error: BaseException) -> Client:
    def fail(*_: object, **__: object) -> object:
        raise error

    return fail


def answer(kind: type[errors.HfHubHTTPError], status: int) -> errors.HfHubHTTPError:
    request = httpx2.Request("GET", "http://hub/secret-token")
    return kind("long\nwords", response=httpx2.Response(status, request=request))


def test_what_has_the_form_of_a_hub_id() -> None:
    assert is_hub_id("owner/model-1.5_b")
    for name in ("model", "/a/b", "a/b/c", "a/", "./a", "a b/c"):
        assert not is_hub_id(name)


def test_a_whole_snapshot_is_listed_with_size_and_quantisation(cache: Path) -> None:
    config = json.dumps({"quantization_config": {"quant_method": "gptq"}}).encode()
    folder = put_snapshot(cache, "o/whole", WHOLE | {"config.json": config})
    put_snapshot(cache, "o/gguf-only", {"config.json": b"{}", "x.gguf": b"GGUF"})
    (model,) = hub_models()
    assert (model.hub_id, model.folder, model.is_whole) == ("o/whole", folder, True)
    assert (model.quantisation, model.size_bytes) == ("gptq", len(config) + 2 + len(b"weights"))
    assert cached_snapshot("o/whole") == folder


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": b"{}", "model.safetensors": b"w"},
        {"tokenizer.json": b"{}", "model.safetensors.index.json": b'{"weight_map": {"a": "m.1"}}'},
    ],
    ids=["no tokenizer", "no shard"],
)
def test_a_snapshot_that_lacks_a_file_is_no_model(cache: Path, files: dict[str, bytes]) -> None:
    put_snapshot(cache, "o/part", files)
    assert cached_snapshot("o/part") is None
    assert [(each.hub_id, each.is_whole) for each in hub_models()] == [("o/part", False)]


def test_an_empty_cache_has_no_models(cache: Path) -> None:
    assert hub_models() == []
    assert cached_snapshot("o/none") is None
    assert cached_snapshot("bad--id/x") is None
    with pytest.raises(ModelMissing):
        remove_from_hub("o/none")


def test_removing_takes_one_model_and_not_another_of_the_same_commits(cache: Path) -> None:
    put_snapshot(cache, "o/going", WHOLE)
    stays = put_snapshot(cache, "o/staying", WHOLE)
    remove_from_hub("o/going")
    assert not (cache / "models--o--going").exists()
    assert cached_snapshot("o/staying") == stays


def test_fetching_tells_how_much_has_come(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[float] = []

    def download(hub_id: str, **options: Any) -> str:
        bar = options["tqdm_class"](unit="B", total=0)
        files = options["tqdm_class"](total=2)
        files.update(1)
        for _ in range(4):
            bar.update(5)
        return str(put_snapshot(cache, hub_id, WHOLE))

    fake_hub(monkeypatch, download, "tokenizer.json", "model.safetensors")
    folder = fetch_from_hub("o/m", lambda _, share: shown.append(share))
    assert folder.name == "a" * 40
    assert shown == [0.0, 0.25, 0.5, 0.75, 0.99, 1.0]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (answer(errors.GatedRepoError, 403), "it is gated: accept its terms"),
        (answer(errors.RepositoryNotFoundError, 404), "it has none of that name, or a private"),
        (answer(errors.HfHubHTTPError, 503), "it answers 503"),
        (errors.HFValidationError("x"), "that is no hub id"),
        (errors.OfflineModeIsEnabled("x"), "HF_HUB_OFFLINE"),
        (errors.LocalEntryNotFoundError("x"), "it cannot be reached; check the network"),
        (ConnectionResetError(104, "x"), "it cannot be reached"),
        (OSError(errno.ENOSPC, "full"), "no space is left in"),
        (RuntimeError("IO: No space left on device"), "no space is left in"),
        (PermissionError(13, "Permission denied", "/x"), "Permission denied: /x"),
        (KeyError("what\nelse"), "KeyError; check the id and the network"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_each_failure_is_one_line_with_what_to_do(
    cache: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    fake_hub(monkeypatch, failing(error), "model.safetensors")
    with pytest.raises(ModelMissing) as caught:
        fetch_from_hub("o/m", silent)
    line = str(caught.value)
    assert line.startswith(f"o/m cannot be had from the hub: {reason}")
    assert "\n" not in line
    assert "secret" not in line
    assert not (cache / "models--o--m").exists()


def test_the_cause_of_a_dry_run_that_fails_is_told(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = errors.DryRunError("x")
    error.__cause__ = answer(errors.GatedRepoError, 401)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", failing(error))
    with pytest.raises(ModelMissing, match="gated"):
        fetch_from_hub("o/m", silent)


def test_a_repository_without_safetensors_or_too_large_is_not_fetched(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = failing(AssertionError("fetched"))
    fake_hub(monkeypatch, never, "config.json", "tokenizer.json")
    with pytest.raises(ModelMissing, match=r"has no \*\.safetensors"):
        fetch_from_hub("o/m", silent)
    fake_hub(monkeypatch, never, "model.safetensors", size=1 << 60)
    with pytest.raises(ModelMissing, match=r"o/m needs 1,152,921,504,607 MB in .* are free"):
        fetch_from_hub("o/m", silent)


@pytest.mark.parametrize(
    ("came", "error", "stays"),
    [
        ({"config.json": b"{}"}, ConnectionError(), False),
        ({"config.json": b"{}"}, KeyboardInterrupt(), False),
        (WHOLE, ConnectionError(), True),
        (WHOLE, KeyboardInterrupt(), True),
        (WHOLE, OSError(errno.ENOSPC, "full"), False),
    ],
)
def test_only_whole_weights_outlive_a_failure_that_is_no_full_disk(
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    came: dict[str, bytes],
    error: BaseException,
    stays: bool,
) -> None:
    def download(hub_id: str, **_: object) -> object:
        put_snapshot(cache, hub_id, came)
        raise error

    fake_hub(monkeypatch, download, "model.safetensors")
    with pytest.raises((ModelMissing, KeyboardInterrupt)):
        fetch_from_hub("o/m", silent)
    assert (cache / "models--o--m").exists() == stays


def test_what_was_there_before_a_failure_stays(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_snapshot(cache, "o/m", {"config.json": b"{}"})
    fake_hub(monkeypatch, failing(OSError(errno.ENOSPC, "full")), "model.safetensors")
    with pytest.raises(ModelMissing):
        fetch_from_hub("o/m", silent)
    assert (cache / "models--o--m").exists()
