"""Finding a model: what is there is used, what is missing is named with the way to get it."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from inference import model
from inference.errors import ModelMissing, UnsupportedModel
from inference.hardware import choose_device, choose_dtype, choose_threads, physical_cores
from inference.sampler import SamplingDefaults
from inference.store import convert
from inference.store.convert import read_source
from inference.store.files import default_cache_dir, find_model
from inference.store.package import MODEL_COMMAND


def silent(what: str, done: float) -> None:
    """No progress is shown."""


def test_missing_package_is_named_with_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModelMissing) as caught:
        find_model(None, tmp_path, silent)
    assert MODEL_COMMAND in str(caught.value)
    assert "--model" in str(caught.value)


def test_folder_is_a_model_named_after_it(tiny_folder: Path, tmp_path: Path) -> None:
    files = find_model(str(tiny_folder), tmp_path, silent)
    assert (files.name, files.folder, files.tokenizer) == ("tiny", tiny_folder, None)


def test_weights_digest_tells_weights_apart(tiny_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "tiny"
    shutil.copytree(tiny_folder, other)
    first = find_model(str(tiny_folder), tmp_path, silent).weights
    assert find_model(str(other), tmp_path, silent).weights == first
    file = other / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-4096:] = bytes(4096)
    file.write_bytes(data)
    assert find_model(str(other), tmp_path, silent).weights != first


@pytest.mark.parametrize("wanted", ["/nowhere/at/all", "./no such thing", "no-such-folder"])
def test_what_is_no_model_is_refused_with_what_would_be_one(wanted: str, tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="--model takes"):
        find_model(wanted, tmp_path, silent)


def test_hub_that_cannot_be_reached_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub

    def unreachable(*_args: object, **options: object) -> str:
        if options.get("local_files_only"):
            raise FileNotFoundError
        raise ConnectionError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(ModelMissing, match="some/model cannot be had from the hub"):
        find_model("some/model", tmp_path, silent)


def test_cache_folder_comes_from_the_environment_or_the_platform() -> None:
    assert default_cache_dir({"RHIZOME_CACHE": "/x/y"}) == Path("/x/y")
    assert default_cache_dir({}).name == "rhizome"


def fake_conversion(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Conversions that write next to nothing, and what they wrote."""
    made: list[Path] = []

    def write(gguf_file: Path, folder: Path) -> None:
        made.append(folder)
        (folder / "model.safetensors").write_bytes(gguf_file.read_bytes())

    monkeypatch.setattr(convert, "_write_tokenizer", lambda *_: None)
    monkeypatch.setattr(convert, "_write_weights", write)
    return made


def test_conversion_happens_once_and_shows_progress(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = fake_conversion(monkeypatch)
    file = tmp_path / "Small-1B.Q4_K_M.gguf"
    file.write_bytes(b"GGUF weights")
    shown: list[float] = []
    folder = convert.convert(file, tmp_path / "cache", lambda _, done: shown.append(done))
    assert (folder / "model.safetensors").read_bytes() == b"GGUF weights"
    assert shown == sorted(shown)
    assert (shown[0], shown[-1]) == (0.0, 1.0)
    source = read_source(folder)
    assert source is not None
    assert (source.name, source.quantisation) == ("Small-1B", "Q4_K_M")
    again = convert.convert(file, tmp_path / "cache", lambda *_: pytest.fail("again"))
    assert (again, len(made)) == (folder, 1)
    assert [p.name for p in (tmp_path / "cache").iterdir() if p.name.startswith(".")] == []


def test_broken_conversion_leaves_nothing_that_looks_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_conversion(monkeypatch)

    def disk_full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(convert, "_write_weights", disk_full)
    file = tmp_path / "x.gguf"
    file.write_bytes(b"GGUF weights")
    with pytest.raises(ModelMissing, match="No space left"):
        convert.convert(file, tmp_path / "cache", silent)
    assert [p for p in (tmp_path / "cache").iterdir() if p.is_dir()] == []


def test_generation_config_gives_the_sampling_defaults() -> None:
    def defaults(**values: Any) -> SamplingDefaults:
        config = SimpleNamespace(**{"do_sample": None, "temperature": None, "top_p": None} | values)
        config.top_k = values.get("top_k")
        files = SimpleNamespace(is_small=False)
        return model.sampling_defaults(files, SimpleNamespace(generation_config=config))

    assert defaults() == SamplingDefaults()
    assert defaults(do_sample=True) == SamplingDefaults(temperature=1.0)
    assert defaults(do_sample=True, temperature=0.6, top_p=0.9, top_k=20) == SamplingDefaults(
        temperature=0.6, top_p=0.9, top_k=20
    )


def test_end_tokens_are_all_that_are_named() -> None:
    named = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[3, 4]))
    assert model.end_tokens(named, 5) == {3, 4, 5}
    one = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=3))
    assert model.end_tokens(one, None) == {3}


def test_cuda_that_torch_cannot_use_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("inference.hardware._gpu_visible", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", None)
    chosen = choose_device("auto")
    assert chosen.device.type == "cpu"
    assert "built without CUDA" in chosen.why
    with pytest.raises(UnsupportedModel, match="built without CUDA"):
        choose_device("cuda")
    monkeypatch.setattr("inference.hardware._gpu_visible", lambda: False)
    assert choose_device("auto").why == "no GPU found"


def test_dtype_is_float32_on_a_cpu_and_the_checkpoints_on_a_gpu() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choose_dtype("auto", cpu, torch.bfloat16) is torch.float32
    assert choose_dtype("auto", cuda, torch.bfloat16) is torch.bfloat16
    assert choose_dtype("auto", cuda, None) is torch.float32
    assert choose_dtype("bfloat16", cpu, None) is torch.bfloat16
    with pytest.raises(UnsupportedModel, match="int4"):
        choose_dtype("int4", cpu, None)


def test_threads_are_physical_cores_minus_one_and_at_least_one() -> None:
    assert choose_threads(3) == 3
    assert choose_threads(0) == max(1, physical_cores() - 1)


@pytest.mark.model
def test_packaged_model_is_found_and_converted_once() -> None:
    files = find_model(None, default_cache_dir(), silent)
    assert files.name == "SmolLM2-135M-Instruct"
    assert files.quantisation == "Q4_1"
    assert (files.folder / "model.safetensors").exists()
